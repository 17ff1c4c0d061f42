"""A method's optimizer at the learning rate of its batch, and the run's schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer

from simmim_pl.contracts import InputError
from simmim_pl.runtime import schedule
from simmim_pl.runtime.fused_optimizer import fuse


class SharedFactory:
    """Makes an optimizer of parameters. Copies of a method share it: the command line's refers to the whole parser.

    Args:
        make: makes the optimizer.
    """

    def __init__(self, make: OptimizerCallable) -> None:
        self.make = make

    def __call__(self, parameters: Any) -> Optimizer:
        return self.make(parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedFactory:
        return self


def optimizer_and_schedule(
    trainer: Any, module: Any, make: OptimizerCallable, warmup_epochs: float, decay_norm_and_bias: bool
) -> tuple[Optimizer, Callable[[int], float]]:
    """The optimizer of all parameters, its lr scaled to the batch, and the factor on that lr by step.

    Raises:
        InputError: neither ``max_epochs`` nor ``max_steps`` is set; gradients accumulate over batches whose loss would
            compare the images of each batch only.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise InputError("A cosine schedule needs an end: set --trainer.max_epochs or --trainer.max_steps.")
    batch, number = schedule.effective_batch(trainer), trainer.accumulate_grad_batches
    if number > 1 and module.compares_images:
        raise InputError(
            f"accumulate_grad_batches {number} would average {number} losses, each of which compares only the "
            f"{batch // number} images of its batch. To compare all {batch} in the same memory, set --data.batch_size "
            f"{batch} --model.gradient_cache {number} instead."
        )
    optimizer = make(schedule.parameter_groups(module, decay_norm_and_bias))
    fuse(optimizer, module.device)
    for group in optimizer.param_groups:
        group["lr"] *= batch / schedule.REFERENCE_BATCH
    peak = optimizer.param_groups[0]["lr"]
    warmup = 0
    if warmup_epochs:
        trainer.fit_loop.setup_data()  # with max_epochs -1 the number of batches is not set yet
        warmup = round(warmup_epochs * trainer.num_training_batches / number)
    rank_zero_info(
        f"Effective batch {batch} = batch_size × accumulation, whatever the devices: "
        f"lr {peak:.4g} after {warmup} warm-up steps, cosine to 0 over {steps}."
    )
    return optimizer, partial(schedule.warmup_cosine, warmup=warmup, steps=int(steps))
