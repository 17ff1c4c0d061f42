"""What may change between a checkpoint and the run that goes on from it: done and said, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import InputError

Change = tuple[str, Any, Any]  # key, value in the checkpoint, value now

NOT_OF_THE_RUN = {"name", "runs", "ckpt_path", "weights_only", "untrained"}
# What a checkpoint's weights, optimizer state or place in the data are tied to, whatever lies below it.
TIED = {
    "model.encoder": "its weights are of that encoder",
    "model.head": "its weights are of that head",
    "model.decay_norm_and_bias": "its optimizer has divided the weights by it",
    "data.validation": "other images would be held out, some of them trained on before",
    "data.split_seed": "other images would be held out, some of them trained on before",
    "data.batch_size": "a run can only go on with the same batches",
    "seed_everything": "a run can only go on with the same batches",
    "data.seed": "a run can only go on with the same batches",
}
# Of these the class is tied, and not its arguments.
CLASSES = {
    "model": "its weights are of that method",
    "model.optimizer": "its optimizer state is of that class",
    "data": "its place in the data is of that class",
    "data.source": "its place in the data is of that class",
}
# Where weights come from at the very beginning: the checkpoint's replace them.
REPLACED = ("pretrained", "weights")


def changes(before: Any, now: Any, place: tuple[str, ...] = ()) -> Iterator[Change]:
    """Keys in which two configs differ, without ``init_args``; of another class, or a list, as a whole.

    >>> list(changes({"lr": 1, "loss": {"class_path": "A", "init_args": {"t": 1}}, "old": None},
    ...              {"lr": 2, "loss": {"class_path": "A", "init_args": {"t": 3}}}))
    [('loss.t', 1, 3), ('lr', 1, 2)]
    """
    nested = isinstance(before, Mapping) and isinstance(now, Mapping)
    if nested and before.get("class_path") == now.get("class_path"):
        for key in sorted(before.keys() | now.keys()):
            if place or key not in NOT_OF_THE_RUN:
                yield from changes(before.get(key), now.get(key), (*place, key))
    elif before != now:
        yield ".".join(part for part in place if part not in ("init_args", "dict_kwargs")), before, now


def require_possible(changed: Sequence[Change]) -> None:
    """Raises :class:`InputError` for the first change after which a run cannot go on from its checkpoint."""
    for key, before, now in changed:
        for tied, why in TIED.items():
            if (key == tied or key.startswith(f"{tied}.")) and not key.endswith(REPLACED):
                refuse(key, before, now, why)
        if key in CLASSES:
            refuse(key, before, now, CLASSES[key])


def refuse(key: str, before: Any, now: Any, why: str) -> None:
    """Raise the sentence."""
    raise InputError(
        f"{key} is {short(before)} in the checkpoint and {short(now)} now, and {why}: set it back, or start a new run."
    )


def short(value: Any) -> str:
    """A value in a few words: of a part its class, of a list how long it is."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rsplit(".", 1)[-1]
    text = "null" if value is None else str(value)
    return (
        text if len(text) <= 40 else f"{len(value)} entries" if isinstance(value, (list, Mapping)) else text[:37] + "…"
    )


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Of every group of parameters, what the config made of it: learning rate, weight decay, momentum, …"""
    return [
        {name: value for name, value in group.items() if name not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]


def carry_over(
    optimizer: Optimizer, schedule: LambdaLR, before: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    """Give a restored optimizer what the config has changed; its state, and what it has changed itself, stay.

    Without a change this leaves every value as it was restored, to the bit.

    - ``before``, ``now``: :func:`hyperparameters` as the config made them, of the checkpoint's run and of this one.
    """
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        group |= {name: value for name, value in new.items() if name != "lr" and old.get(name) != value}
        group["initial_lr"] = new["lr"]
    schedule.base_lrs = [new["lr"] for new in now]
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, factors, strict=True):
        group["lr"] = base * factor
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
