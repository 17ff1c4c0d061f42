"""Late views: which batches of a training are its last, and what views may be made of them."""

from __future__ import annotations

import math
from typing import Any

from simmim_pl.contracts import InputError, Views


def check(views: Views | None, late_views: Views | None) -> None:
    """Refuse late views that are smaller than the others."""
    usual, late = getattr(views, "size", 0), getattr(late_views, "size", math.inf)
    if late < usual:
        raise InputError(
            f"Late views of {late} pixels are smaller than the views of {usual} before: set --data.late_views.size to "
            f"{usual} or more, or --data.late_views null."
        )


def is_late(trainer: Any, batch: int, share: float) -> bool:
    """Whether the batch of this number, from 0 on, is within the last share of the training's."""
    length, together = trainer.num_training_batches, trainer.accumulate_grad_batches
    # Lightning knows the steps. The last of an epoch may be of fewer batches than the others.
    epochs, steps = divmod(trainer.estimated_stepping_batches, math.ceil(length / together))
    return bool(batch >= (1 - share) * (epochs * length + steps * together))
