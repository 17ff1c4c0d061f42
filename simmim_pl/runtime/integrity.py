"""Verify a checkpoint against the digest of each section, so that a run never resumes from a changed one."""

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

DIGESTS = "digests"  # name of the section that holds the digests of the others
# Types of the values that Lightning restores without checking them, by key. Other keys are allowed.
COUNTS = {"ready": int, "completed": int}
PROGRESS = {"total": COUNTS, "current": COUNTS}
BATCH_PROGRESS = {**PROGRESS, "is_last_batch": bool}
SECTIONS: dict[str, Any] = {
    "epoch": int,
    "global_step": int,
    "state_dict": {str: Tensor},
    "config": {str: object},
    "ImageDataModule": {"epoch": int, "batches": int},  # absent with another datamodule
    "callbacks": {str: object},
    "lr_schedulers": [{str: object}],
    "optimizer_states": [{"state": {int: {str: object}}, "param_groups": [{"params": [int]}]}],
    "loops": {
        "fit_loop": {
            "state_dict": dict,
            "epoch_progress": PROGRESS,
            "epoch_loop.state_dict": {"_batches_that_stepped": int},
            "epoch_loop.batch_progress": BATCH_PROGRESS,
            "epoch_loop.scheduler_progress": PROGRESS,
            "epoch_loop.automatic_optimization.state_dict": dict,
            "epoch_loop.automatic_optimization.optim_progress": {
                "optimizer": {"step": PROGRESS, "zero_grad": PROGRESS}
            },
            "epoch_loop.manual_optimization.state_dict": dict,
            "epoch_loop.manual_optimization.optim_step_progress": PROGRESS,
            "epoch_loop.val_loop.state_dict": dict,
            "epoch_loop.val_loop.batch_progress": BATCH_PROGRESS,
        },
        "validate_loop": {"state_dict": dict, "batch_progress": BATCH_PROGRESS},
        "test_loop": {"state_dict": dict, "batch_progress": BATCH_PROGRESS},
        "predict_loop": {"state_dict": dict, "batch_progress": PROGRESS},
    },
}
MAY_BE_EMPTY = ("lr_schedulers", "optimizer_states")  # with a user's module, if a digest confirms it


def with_digests(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Add the section ``digests``: SHA-256 of each other section, see :func:`digest`."""
    return {**checkpoint, DIGESTS: {name: digest(value) for name, value in checkpoint.items() if name != DIGESTS}}


def checkpoint_id(saved: Mapping[str, Any]) -> str:
    """Global step and digest of a checkpoint, as one line of text."""
    return f"step {saved.get('global_step')} ({digest(saved.get(DIGESTS) or saved)[:12]})"


def require_intact(saved: Mapping[str, Any], path: str | Path) -> None:
    """Verify a checkpoint against the digest of each section, and the types of the values that Lightning restores.

    Args:
        saved: the checkpoint.
        path: its path, for the error.

    Raises:
        InputError: a section is missing, does not match its digest, or holds a value of the wrong type.
    """
    damaged = next(chain(malformed_values(saved), changed_sections(saved, saved.get(DIGESTS, {}))), None)
    if damaged is not None:
        raise InputError(
            f"{path} is damaged or was changed after fit wrote it, at {damaged}: no run can resume from it exactly. "
            "Use another checkpoint of the run, or start a new one."
        )


def changed_sections(saved: Mapping[str, Any], digests: Any) -> Iterator[str]:
    """Names of sections that do not match their digests. A checkpoint of another callback has no digests to check."""
    if not isinstance(digests, Mapping):
        yield DIGESTS
    elif digests:
        for name in sorted((saved.keys() | digests.keys()) - {DIGESTS}, key=str):
            if name not in saved or digests.get(name) != digest(saved[name]):
                yield name


def malformed_values(saved: Mapping[str, Any]) -> Iterator[str]:
    """Keys of values that Lightning restores and that are missing or have the wrong type, see SECTIONS."""
    digests = saved.get(DIGESTS)
    for name, kind in SECTIONS.items():
        empty = isinstance(value := saved.get(name), list) and not value
        if empty and name in MAY_BE_EMPTY and isinstance(digests, Mapping) and name in digests:
            continue
        if name in saved or name != "ImageDataModule":
            yield from type_mismatches(value, kind, name)


def type_mismatches(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """Dotted keys of values below ``where`` that are missing or not of the type in ``wanted``.

    Args:
        value: the section, or a value in it.
        wanted: a type, ``[type of each item]``, ``{type of each key: type of each value}``, or types by key.
        where: the dotted key of ``value``.
    """
    if isinstance(wanted, type):
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            yield where
    elif isinstance(wanted, list):
        if not isinstance(value, list) or not value:
            yield where
            return
        for place, part in enumerate(value):
            yield from type_mismatches(part, wanted[0], f"{where}.{place}")
    elif not isinstance(value, Mapping):
        yield where
    elif isinstance(kind := next(iter(wanted)), type):  # any keys, all of one type
        for key, part in value.items():
            yield from type_mismatches(key, kind, f"{where}.{key}")
            yield from type_mismatches(part, wanted[kind], f"{where}.{key}")
    else:
        for key, kind in wanted.items():
            yield from type_mismatches(value[key], kind, f"{where}.{key}") if key in value else [f"{where}.{key}"]


def digest(value: Any) -> str:
    """SHA-256, in hex, of nested tensors and plain values: covers types, shapes, order and every bit."""
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
    """One sentence for an error raised while a checkpoint is restored, else ``None``: decided by the traceback."""
    calls = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    restoring = [code.co_name == "load_state_dict" or "checkpoint_connector" in code.co_filename for code in calls]
    if not any(restoring) or any(code.co_name in ("dump_checkpoint", "save_checkpoint") for code in calls):
        return None
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"The checkpoint's state cannot be restored ({reason}): use another of the same run, or start a new run."
