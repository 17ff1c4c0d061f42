"""Check the trainer's options: refuse those that cannot work here, and tell counts of batches from shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range

BATCHES = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
SHARES = (*BATCHES.values(), "overfit_batches", "val_check_interval")  # shares, or numbers of batches
RANGES: dict[str, Any] = {
    "max_epochs": Annotated[int, Range("[-1, inf)")],
    "max_steps": Annotated[int, Range("[-1, inf)")],
    "num_sanity_val_steps": Annotated[int, Range("[-1, inf)")],
    "fast_dev_run": bool | NonNegativeInt,
    **dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps"), NonNegativeInt),
    **dict.fromkeys(("check_val_every_n_epoch", "accumulate_grad_batches", "num_nodes"), PositiveInt),
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
    "gradient_clip_val": NonNegativeFloat,
    **dict.fromkeys(SHARES, NonNegativeFloat),
    "val_check_interval": PositiveFloat,
}
# Callbacks of Lightning's that cannot work here, and what to do.
CALLBACKS = {
    "LearningRateFinder": "looks for an attribute lr that methods do not have: set --model.optimizer.lr",
    "BatchSizeFinder": "changes the batch size, on which learning rate and resuming depend: set --data.batch_size",
    "GradientAccumulationScheduler": "changes the effective batch, by which the learning rate is scaled: set "
    "--trainer.accumulate_grad_batches",
    "ModelPruning": "keeps masks that no checkpoint stores, so the run could not be resumed: remove it",
    "BackboneFinetuning": "looks for an attribute backbone that methods do not have: set --model.optimizer.lr",
}
SHARDED = ("fsdp", "deepspeed", "modelparallel", "model_parallel", "xla")


def tell_counts_from_shares(parser: Any) -> None:
    """Parse 1 as one batch, and 1.0 as all of them.

    Lightning's hints are ``typing.Union[int, float]``. Python caches unions, so the order of the types, in which
    jsonargparse tries them, depends on which package was imported first.
    """
    for action in parser._actions:
        if action.dest.removeprefix("trainer.") in SHARES:
            action._typehint = int | float | None


def look_at(config: Any, verb: str) -> None:
    """Refuse options that this package or this machine does not support.

    - ``config``: a subcommand's, parsed; nothing of it is built yet.

    Raises:
        InputError: an option is refused.
    """
    for sentence in refusals(config.trainer, verb):
        raise InputError(sentence)


def refusals(trainer: Any, verb: str) -> Iterator[str]:
    """A sentence for each option that is refused."""
    if trainer.barebones:
        yield "--trainer.barebones true turns off parts that every run needs, such as logging: remove it."
    if trainer.precision in ("16-true", "bf16-true"):
        mixed = trainer.precision.replace("true", "mixed")
        yield f"--trainer.precision {trainer.precision} would also keep weights in half precision: set it to {mixed}."
    if trainer.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        yield (
            f"--trainer.accelerator is {trainer.accelerator}, and this machine has no GPU that torch can use: set "
            "--trainer.accelerator cpu."
        )
    strategy = class_name(trainer.strategy)
    if any(word in strategy.lower() for word in SHARDED):
        yield f"--trainer.strategy {strategy} divides a network among devices, which is not supported: set it to ddp."
    for name in map(class_name, as_list(trainer.callbacks)):
        if name in CALLBACKS:
            yield f"The callback {name} {CALLBACKS[name]}."
    if trainer[BATCHES[verb]] == 0:
        yield f"With --trainer.{BATCHES[verb]} 0 there is nothing to {verb}: set a number of batches, or leave it out."


def class_name(spec: Any) -> str:
    """The short name of a class in a config; of a string, itself."""
    return str(getattr(spec, "class_path", spec)).rpartition(".")[2]


def as_list(value: Any) -> list[Any]:
    """A list, also of one thing or of nothing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def chosen(asked: Any, model: Any) -> dict[str, Any]:
    """Trainer arguments chosen for the user: the precision, and the model's defaults for options that are not set."""
    own = getattr(model, "trainer_defaults", {})
    for key, value in own.items():
        if asked[key] is None:
            asked[key] = value
    return {key: asked[key] for key in ("precision", *own)}
