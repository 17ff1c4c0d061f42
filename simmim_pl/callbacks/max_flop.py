"""Stop training after a given number of floating point operations."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime.flops import step_flop
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
        self.flop = flop

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.flop is None:
            return
        name, data = type(pl_module).__name__, trainer.datamodule  # type: ignore[attr-defined]
        try:
            image = data.splits["train"].__getitems__([0])["image"]
            of_step = step_flop(pl_module, kinds_of_batches(data, image), trainer.accumulate_grad_batches)
        except Exception as error:
            raise InputError(
                f"What a step of {name} costs cannot be counted ({type(error).__name__}: {error}): leave "
                "--callbacks.max_flop.flop out, "
                "and set --trainer.max_steps."
            ) from error
        steps = round(self.flop / of_step)
        if steps < 1:
            raise InputError(
                f"A step of {name} costs {of_step:.3g} FLOP, and --callbacks.max_flop.flop is {self.flop:g}: raise it."
            )
        rank_zero_info(f"{self.flop:g} FLOP are {steps} steps of {of_step:.3g}.")
        limit = trainer.max_steps
        trainer.fit_loop.epoch_loop.max_steps = steps if limit == -1 else min(steps, limit)


def kinds_of_batches(data: Any, image: UInt8[Tensor, "1 3 H W"]) -> list[tuple[float, dict[str, list[int]]]]:
    """Shapes of a run's batches on one device, by name, each with its share of the run.

    - ``image``: an image of the data set's size; views are made of it to find their size.
    """

    def shape(maker: Any) -> list[int]:
        views, _, *pixels = maker(image, torch.Generator()).shape
        return [views, data.batch_size, *pixels]

    local = {"local": shape(data.local_views)} if data.local_views is not None else {}
    if data.final_views is None:
        return [(1.0, {"views": shape(data.views)} | local)]
    first, last = {"views": shape(data.views)} | local, {"views": shape(data.final_views)} | local
    return [(1 - data.final_share, first), (data.final_share, last)]
