"""Read a checkpoint without running anything that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simmim_pl.records import InputError


def read(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of a ``fit`` of ours to the CPU, as tensors and plain values only.

    Raises:
        InputError: there is no such file, it is truncated, holds anything but tensors and plain values, or was written
            by another tool.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}: give the path of a .ckpt file that fit wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … by where the file ends
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is truncated, or holds more than tensors and plain values. "
            f"Use another checkpoint of the same run ({type(error).__name__})."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config"} <= checkpoint.keys():
        raise InputError(
            f"{path} was not written by `python -m simmim_pl fit`: it lacks the weights or the config that a run of "
            "ours leaves in its checkpoints."
        )
    return checkpoint


def require_same(state: dict[str, Any], own: dict[str, Any], path: str | Path) -> None:
    """Refuse weights of another architecture, naming the first tensor that differs.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.
    """
    for name in sorted(state.keys() | own.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else "no such tensor" for side in (state, own))
        if theirs != ours:
            raise InputError(
                f"{path} is of another architecture: at {name} it has {theirs}, the config builds {ours}. "
                "Use the config.yaml that lies in the run directory of the checkpoint."
            )
