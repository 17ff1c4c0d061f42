"""Stop training after a given number of floating point operations."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime.flops import step_flop
from simmim_pl.runtime.pixels import image_at
from simmim_pl.runtime.ranges import PositiveFloat, ranged


class MaxFlop(Callback):
    """Ends training, and its schedule, after a number of FLOP, so that methods with steps of different cost compare.

    Before the first step it counts the FLOP of one, see :func:`simmim_pl.runtime.flops.step_flop`, and lowers the
    trainer's ``max_steps``. Other limits, such as ``max_epochs``, apply too: set that to -1. Validation is not counted.

    Args:
        flop: floating point operations of the training; a multiplication and an addition count as two. By default there
            is no limit.
    """

    @ranged
    def __init__(self, flop: PositiveFloat | None = None) -> None:
        self.flop, self.steps = flop, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "fit" or self.flop is None or getattr(data, "views", data) is None:
            return  # without views, the method will say so
        name = type(pl_module).__name__
        try:
            batches = kinds_of_batches(data, image_at(data.splits["train"], 0))
            of_step = step_flop(pl_module, batches, trainer.accumulate_grad_batches)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"The FLOP of a step of {name} cannot be counted ({type(error).__name__}: {error}): set "
                "--trainer.max_steps instead of --callbacks.max_flop.flop."
            ) from error
        self.steps = round(self.flop / of_step)
        if self.steps < 1:
            raise InputError(
                f"A step of {name} takes {of_step:.3g} FLOP, and --callbacks.max_flop.flop is {self.flop:g}: raise it."
            )
        rank_zero_info(f"{self.flop:g} FLOP are {self.steps} steps of {of_step:.3g}.")
        limit = trainer.max_steps
        trainer.fit_loop.epoch_loop.max_steps = self.steps if limit == -1 else min(self.steps, limit)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if steps < self.steps:
            rank_zero_warn(
                f"The run ends after {steps} steps, before its {self.flop:g} FLOP are spent: to spend them, set "
                "--trainer.max_epochs=-1, and no --trainer.max_steps."
            )


def kinds_of_batches(data: Any, image: Shaped[Tensor, "1 C H W"]) -> list[tuple[float, dict[str, list[int]]]]:
    """Shapes of a run's batches on one device, by name, each with its share of the run.

    - ``image``: an image of the data set's size; views are made of it to find their size.
    """

    def shape(maker: Any) -> list[int]:
        views, _, *pixels = maker(image, torch.Generator(image.device)).shape
        return [views, data.batch_size, *pixels]

    local, final = getattr(data, "local_views", None), getattr(data, "final_views", None)
    more = {} if local is None else {"local": shape(local)}
    if final is None:
        return [(1.0, {"views": shape(data.views)} | more)]
    first, last = ({"views": shape(maker)} | more for maker in (data.views, final))
    return [(1 - data.final_share, first), (data.final_share, last)]
