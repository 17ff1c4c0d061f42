"""What callbacks found at the last validation that is not a curve: pictures, histograms, the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor


def run_directory(trainer: Trainer) -> Path | None:
    """The run directory, on rank zero; else ``None``. ``Trainer.log_dir`` would be a collective call."""
    if not trainer.is_global_zero:
        return None
    folders = [logger.log_dir for logger in trainer.loggers if logger.log_dir]
    return Path(folders[0]) if folders else None


def observed(trainer: Trainer) -> dict[str, Any]:
    """The last observations of all callbacks, from their attribute ``found``, without curves (a slash in the name)."""
    found: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        found |= getattr(callback, "found", {})
    plain = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}
    return {name: value for name, value in plain.items() if "/" not in name}
