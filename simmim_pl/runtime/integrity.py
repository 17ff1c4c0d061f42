"""Whether a checkpoint is what ``fit`` wrote, to the last value: from any other, a run would go on as another run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor

from simmim_pl.contracts import InputError

SEALS = "digests"  # the section that says what the others are
# What Lightning restores a run from, as far as it does not look itself: types, by key; further keys are welcome.
READY = {"ready": int, "completed": int}
PROGRESS = {"total": READY, "current": READY}
BATCHES = {**PROGRESS, "is_last_batch": bool}
SECTIONS: dict[str, Any] = {
    "epoch": int,
    "global_step": int,
    "state_dict": {str: Tensor},
    "config": {str: object},
    "ImageDataModule": {"epoch": int, "batches": int},  # of other data, another name
    "callbacks": {str: object},
    "lr_schedulers": [{str: object}],
    "optimizer_states": [{"state": {int: {str: object}}, "param_groups": [{"params": [int]}]}],
    "loops": {
        "fit_loop": {
            "state_dict": dict,
            "epoch_progress": PROGRESS,
            "epoch_loop.state_dict": {"_batches_that_stepped": int},
            "epoch_loop.batch_progress": BATCHES,
            "epoch_loop.scheduler_progress": PROGRESS,
            "epoch_loop.automatic_optimization.state_dict": dict,
            "epoch_loop.automatic_optimization.optim_progress": {
                "optimizer": {"step": PROGRESS, "zero_grad": PROGRESS}
            },
            "epoch_loop.manual_optimization.state_dict": dict,
            "epoch_loop.manual_optimization.optim_step_progress": PROGRESS,
            "epoch_loop.val_loop.state_dict": dict,
            "epoch_loop.val_loop.batch_progress": BATCHES,
        },
        "validate_loop": {"state_dict": dict, "batch_progress": BATCHES},
        "test_loop": {"state_dict": dict, "batch_progress": BATCHES},
        "predict_loop": {"state_dict": dict, "batch_progress": PROGRESS},
    },
}
MAY_BE_NONE = ("lr_schedulers", "optimizer_states")  # of a user's module, where the digests say so


def sealed(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with the digest of each of its sections."""
    return {**checkpoint, SEALS: {name: digest(value) for name, value in checkpoint.items() if name != SEALS}}


def identity(saved: Mapping[str, Any]) -> str:
    """What tells a checkpoint from others: its step, and a digest of what it holds."""
    return f"step {saved.get('global_step')} ({digest(saved.get(SEALS) or saved)[:12]})"


def require_intact(saved: Mapping[str, Any], path: str | Path) -> None:
    """Refuse to go on from a checkpoint that was changed after ``fit`` wrote it, by hand or by accident.

    Raises:
        InputError: a section is missing, is not what its digest says, or has values of a type that no run writes.
    """
    unsound = next(chain(unfit(saved), unlike(saved, saved.get(SEALS, {}))), None)
    if unsound is not None:
        raise InputError(
            f"{path} is damaged or was changed after fit wrote it, at {unsound}: no run can go on exactly from it. Use "
            "another checkpoint of the run, or start a new one."
        )


def unlike(saved: Mapping[str, Any], seals: Any) -> Iterator[str]:
    """Sections that are not what their digests say; a file of another callback's has none."""
    if not isinstance(seals, Mapping):
        yield SEALS
    elif seals:
        for name in sorted((saved.keys() | seals.keys()) - {SEALS}, key=str):
            if name not in saved or seals.get(name) != digest(saved[name]):
                yield name


def unfit(saved: Mapping[str, Any]) -> Iterator[str]:
    """Where something that Lightning restores is missing or of another type."""
    seals = saved.get(SEALS)
    for name, kind in SECTIONS.items():
        none = isinstance(value := saved.get(name), list) and not value
        if none and name in MAY_BE_NONE and isinstance(seals, Mapping) and name in seals:
            continue
        if name in saved or name != "ImageDataModule":
            yield from faults(value, kind, name)


def faults(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """Where in a section something is missing, or of another type than wanted."""
    if isinstance(wanted, type):
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            yield where
    elif isinstance(wanted, list):
        if not isinstance(value, list) or not value:
            yield where
            return
        for place, part in enumerate(value):
            yield from faults(part, wanted[0], f"{where}.{place}")
    elif not isinstance(value, Mapping):
        yield where
    elif isinstance(kind := next(iter(wanted)), type):  # any keys of that type
        for key, part in value.items():
            yield from faults(key, kind, f"{where}.{key}")
            yield from faults(part, wanted[kind], f"{where}.{key}")
    else:
        for key, kind in wanted.items():
            yield from faults(value[key], kind, f"{where}.{key}") if key in value else [f"{where}.{key}"]


def digest(value: Any) -> str:
    """SHA-256 of tensors and plain values: their types, their order, every bit."""
    sha = hashlib.sha256()
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            sha.update(f"tensor {part.dtype} {tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, Mapping):
            sha.update(f"mapping of {len(part)}".encode())
            left += [each for pair in part.items() for each in pair]
        elif isinstance(part, (list, tuple)):
            sha.update(f"{'list' if isinstance(part, list) else 'tuple'} of {len(part)}".encode())
            left += part
        else:
            text = repr(sorted(part, key=repr) if isinstance(part, (set, frozenset)) else part).encode()
            sha.update(f"{len(text)} ".encode() + text)
    return sha.hexdigest()


def explain(error: BaseException) -> str | None:
    """One sentence for what Lightning, an optimizer or a callback raises while a checkpoint is restored."""
    calls = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    restoring = [code.co_name == "load_state_dict" or "checkpoint_connector" in code.co_filename for code in calls]
    if not any(restoring) or any(code.co_name in ("dump_checkpoint", "save_checkpoint") for code in calls):
        return None
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"What the checkpoint holds cannot be restored ({reason}): use another of the same run, or start a new run."
