"""What callbacks found at the last validation, to be looked at rather than read as a curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor


def run_directory(trainer: Trainer) -> Path | None:
    """Where a run's files lie, on rank zero only; nothing without one. ``Trainer.log_dir`` would ask all ranks."""
    if not trainer.is_global_zero:
        return None
    folders = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    return Path(folders[0]) if folders else None


def observed(trainer: Trainer) -> dict[str, Any]:
    """Of every callback that keeps its last observation in ``found``; what has a slash in its name is a curve."""
    found: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        found |= getattr(callback, "found", {})
    plain = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}
    return {name: value for name, value in plain.items() if "/" not in name}
