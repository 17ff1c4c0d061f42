"""The local report, refreshed while the run trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from simmim_pl.callbacks.budget import Budget
from simmim_pl.callbacks.observed import observed, run_directory
from simmim_pl.evaluation.card import code_version, versions
from simmim_pl.report import starts
from simmim_pl.report.observed import keep
from simmim_pl.runtime import atomic
from simmim_pl.runtime.ranges import NonNegativeFloat, ranged


class Report(Callback):
    """Writes ``report.html`` to the run directory, after validations and at the end: one file that needs no network.

    It shows what ``metrics.csv``, ``views.png``, result cards and the other callbacks' last observations hold, which it
    keeps in ``observed.npz``. ``run.json`` says when the run began, how many steps it takes, and with what device,
    precision, commit and versions. ``python -m simmim_pl.report RUN RUN`` puts several runs on one page.

    Args:
        share: the largest share of a training run's time that drawing may take; a refresh that would take more waits
            for a later validation. A page takes about a second.
    """

    @ranged
    def __init__(self, share: NonNegativeFloat = 0.02) -> None:
        self.budget = Budget(share, guess=1.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (folder := run_directory(trainer)) is not None:
            self.attempt(folder / starts.FILE_NAME, lambda: starts.add_start(folder, began(trainer)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING or self.budget.allows():
            self.write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (folder := run_directory(trainer)) is not None:
            self.attempt(folder / starts.FILE_NAME, lambda: starts.record_end(folder, trainer.global_step))
        if path := self.write(trainer):
            rank_zero_info(f"Is it learning? {path} shows it.")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)

    def write(self, trainer: Trainer) -> Path | None:
        """Write the report of this run. Returns its path, or ``None`` if it was not written."""
        folder = run_directory(trainer)
        if folder is None:
            return None

        def draw() -> None:
            from simmim_pl.report.page import (
                write_report,  # matplotlib takes half a second, and training need not wait for it
            )

            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.save()
            if found := observed(trainer):
                keep(folder, found)
            write_report([folder], folder / "report.html")

        with self.budget:
            return self.attempt(folder / "report.html", draw)

    def attempt(self, path: Path, write: Callable[[], None]) -> Path | None:
        """Write a file. A failure is a warning and the run continues, except on a full disk."""
        try:
            write()
        except Exception as error:  # whatever else it is, a picture is not worth the run
            if atomic.is_disk_full(error):
                raise
            rank_zero_warn(f"{path} was not written ({type(error).__name__}: {error}).")
            return None
        return path


def began(trainer: Trainer) -> starts.Start:
    """With what this process trains."""
    device, steps = trainer.strategy.root_device, trainer.estimated_stepping_batches
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        "steps": int(steps) if math.isfinite(steps) else None,
        "device": f"{device.type} × {trainer.world_size}{name}",
        "precision": str(trainer.precision),
        "code": code_version(),
        "versions": versions(),
    }
