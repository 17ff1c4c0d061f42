"""Settings that changed between a checkpoint and the run that resumes from it: each is applied, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import InputError
from simmim_pl.runtime.fused_optimizer import place_steps

Change = tuple[str, Any, Any]  # key, value in the checkpoint, value now

IGNORED_KEYS = {"name", "runs", "ckpt_path", "weights_only", "untrained"}  # they do not affect training
# Keys that must not change, with everything below them, and why.
FIXED_KEYS = {
    "model.encoder": "its weights belong to that encoder",
    "model.head": "its weights belong to that head",
    "model.predictor": "its weights belong to that predictor",
    "model.decay_norm_and_bias": "its optimizer grouped the weights by it",
    "data.validation": "other images would be held out, some of them trained on before",
    "data.split_seed": "other images would be held out, some of them trained on before",
    "data.source.share": "other images would be held out, some of them trained on before",
    **{
        f"{source}.{key}": why
        for source in ("data.source", "data.source.source")  # the second is of HeldOut
        for keys, why in (
            (("labels", "label_column"), "other images would be held out, some of them trained on before"),
            (
                ("seed", "subset", "revision", "train_split", "path_column", "image_column", "split_column"),
                "the images would be different",
            ),
        )
        for key in keys
    },
    "data.batch_size": "a run can only resume with the same batches",
    "seed_everything": "a run can only resume with the same batches",
    "data.seed": "a run can only resume with the same batches",
}
# Keys whose class must not change, though its arguments may.
FIXED_CLASSES = {
    "model": "its weights belong to that method",
    "model.optimizer": "its optimizer state belongs to that class",
    "data": "its position in the data belongs to that class",
    "data.source": "its position in the data belongs to that class",
    "data.source.source": "its position in the data belongs to that class",
}
# Arguments that older checkpoints lack: the values with which they do what was done before.
ADDED: dict[str, tuple[Any, ...]] = {"channels": (3, "rgb"), "pool": (1,), "whiten": (False,)}
# Arguments that name initial weights may change: the checkpoint's weights replace them.
INITIAL_WEIGHTS = ("pretrained", "weights")


def config_changes(before: Any, now: Any, place: tuple[str, ...] = ()) -> Iterator[Change]:
    """Settings in which two configs differ. Where the class differs, or in a list, the whole value is one change.

    Args:
        before: config of the checkpoint.
        now: config of this run.
        place: keys that lead to both.

    Yields:
        Dotted key without ``init_args``, value before, value now.

    >>> list(config_changes({"lr": 1, "loss": {"class_path": "A", "init_args": {"t": 1}}, "old": None},
    ...              {"lr": 2, "loss": {"class_path": "A", "init_args": {"t": 3}}}))
    [('loss.t', 1, 3), ('lr', 1, 2)]
    """
    nested = isinstance(before, Mapping) and isinstance(now, Mapping)
    if nested and before.get("class_path") == now.get("class_path"):
        for key in sorted(before.keys() | now.keys()):
            if place or key not in IGNORED_KEYS:
                yield from config_changes(before.get(key), now.get(key), (*place, key))
    elif before != now and not (place and before is None and now in ADDED.get(place[-1], ())):
        yield ".".join(part for part in place if part not in ("init_args", "dict_kwargs")), before, now


def require_allowed_changes(changed: Sequence[Change]) -> None:
    """Raise :class:`InputError` for the first change that a resumed run cannot have."""
    for key, before, now in changed:
        for tied, why in FIXED_KEYS.items():
            if (key == tied or key.startswith(f"{tied}.")) and not key.endswith(INITIAL_WEIGHTS):
                refuse_change(key, before, now, why)
        if key in FIXED_CLASSES:
            refuse_change(key, before, now, FIXED_CLASSES[key])
        if key == "model.weights" and now is not None:
            refuse_change(key, before, now, "only a new run starts from weights")


def refuse_change(key: str, before: Any, now: Any, why: str) -> None:
    """Raise :class:`InputError` for a change, with its reason."""
    raise InputError(
        f"{key} is {abbreviate_value(before)} in the checkpoint and {abbreviate_value(now)} now, and {why}: set it "
        "back, or start a new run."
    )


def abbreviate_value(value: Any) -> str:
    """A value in at most 40 characters: a class without its arguments, a long list as its length."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rsplit(".", 1)[-1]
    text = "null" if value is None else str(value)
    return (
        text if len(text) <= 40 else f"{len(value)} entries" if isinstance(value, (list, Mapping)) else text[:37] + "…"
    )


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Hyperparameters of each parameter group (lr, weight_decay, momentum, …), without the parameters."""
    return [
        {name: value for name, value in group.items() if name not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]


def apply_changed_hyperparameters(
    optimizer: Optimizer, schedule: LambdaLR, before: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    """Apply changed hyperparameters to a restored optimizer, in place.

    Optimizer state, and hyperparameters that the optimizer itself has changed, stay. If nothing changed, every value
    stays as restored, bit for bit.

    Args:
        optimizer: restored from the checkpoint.
        schedule: its learning rate schedule, restored too.
        before: :func:`hyperparameters` that the checkpoint's config produced.
        now: :func:`hyperparameters` that this run's config produced.
    """
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        group |= {name: value for name, value in new.items() if name != "lr" and old.get(name) != value}
        group["initial_lr"] = new["lr"]
    place_steps(optimizer)
    schedule.base_lrs = [new["lr"] for new in now]
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, factors, strict=True):
        group["lr"] = base * factor
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def resume_after_epochs(trainer: Any) -> None:
    """Make a run with ``max_steps`` resume from an end-of-epoch checkpoint with the next epoch; call before loading.

    Lightning would treat it as stopped within the epoch, and train on a part of that epoch again.
    """
    trainer.fit_loop._iteration_based_training = lambda: False
