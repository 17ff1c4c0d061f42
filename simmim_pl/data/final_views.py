"""Final views: which batches of a training are its last, and what views may be made of them."""

from __future__ import annotations

import math
from typing import Any

from simmim_pl.contracts import InputError, Views


def check(views: Views | None, final_views: Views | None) -> None:
    """Refuse final views that are smaller than the others, or fewer than two. Some have the size of their images."""
    usual, final = getattr(views, "size", None) or 0, getattr(final_views, "size", None) or math.inf
    if final < usual:
        raise InputError(
            f"Final views of {final} pixels are smaller than the views of {usual} before: set "
            f"--data.final_views.size to {usual} or more, or --data.final_views null."
        )
    if getattr(final_views, "views", 2) < 2 <= getattr(views, "views", 2):
        raise InputError(
            f"{type(final_views).__name__} makes one final view of an image, and nothing to compare it with: set "
            "--data.final_views simmim_pl.views.ContrastiveViews, or null."
        )


def is_final(trainer: Any, batch: int, share: float) -> bool:
    """Whether the batch of this number, from 0 on, is within the last share of the training's."""
    length, together = trainer.num_training_batches, trainer.accumulate_grad_batches
    # Lightning knows the steps. The last of an epoch may be of fewer batches than the others.
    epochs, steps = divmod(trainer.estimated_stepping_batches, math.ceil(length / together))
    return bool(batch >= (1 - share) * (epochs * length + steps * together))
