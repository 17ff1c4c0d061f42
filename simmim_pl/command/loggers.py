"""Loggers of a run: ``metrics.csv`` in its directory, and W&B, which never blocks. Neither writes before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from simmim_pl.command.instantiation import explained
from simmim_pl.command.run_directory import sweep_run_id
from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

WANDB_TIMEOUT = 30.0  # seconds to wait for an answer before a run continues offline


class History(CSVLogger):
    """Lightning's CSVLogger for a run directory, which it neither makes nor touches before :meth:`begin`.

    It stands first among a run's loggers, so ``Trainer.log_dir`` is the run directory whatever other loggers there are.

    Args:
        folder: the run directory, ``RUNS/NAME/ID``.
        silent: write no metrics, as with ``--trainer.logger false``.
    """

    def __init__(self, folder: Path, silent: bool = False) -> None:
        super().__init__(save_dir=folder.parent.parent, name=folder.parent.name, version=folder.name)
        self.silent, self.begun = silent, False

    @property
    def experiment(self) -> Any:
        """Lightning's writer; before the run begins, one that writes nothing."""
        return super().experiment if self.begun and not self.silent else DummyExperiment()

    def save(self) -> None:
        with atomic.name_file_in_errors(Path(self.log_dir, "metrics.csv")):  # a full disk may leave half a line there
            super().save()

    @rank_zero_only
    def begin(self) -> None:
        """Start writing, appending to the file of a resumed run, which Lightning's writer would delete."""
        self.begun = True
        if self.silent:
            return
        path = Path(self.log_dir, "metrics.csv")
        before = path.read_bytes() if path.is_file() else None
        writer = self.experiment  # deletes the file when it is made, so never later
        if before is not None:
            writer.metrics_keys = before.decode().split("\n", 1)[0].strip().split(",")
            atomic.write(path, lambda file: file.write(before))


def begin(trainer: Trainer, folder: Path, with_wandb: bool) -> None:
    """Let a run's loggers write, and add W&B's unless the user has other loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, History):
            logger.begin()
    if with_wandb:
        run = start_wandb(folder) if trainer.is_global_zero else None
        trainer.loggers = [*trainer.loggers, WandbLogger(save_dir=folder, experiment=run)]


@explained("The W&B run", wandb.errors.UsageError)
def start_wandb(folder: Path) -> wandb.Run:
    """Start the W&B run: offline without a key, and offline too when the server does not answer."""
    mode: Any = os.environ.get("WANDB_MODE") or "online"
    project = os.environ.get("WANDB_PROJECT") or "simmim_pl"
    name, run_id = folder.parent.name, folder.name
    try:
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
    except wandb.Error as error:
        raise InputError(f"{error} Fix the W&B key in .env or the environment, or set WANDB_MODE=offline.") from error
    later = f"To upload this run later: wandb sync {folder}/wandb/offline-run-*"

    def start(mode: Any) -> wandb.Run:
        settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, login_timeout=WANDB_TIMEOUT, silent=mode != "online")
        return wandb.init(
            dir=folder,
            project=None
            if sweep_run_id()
            else project,  # W&B takes the agent's project from the environment, and warns of another
            name=f"{name}/{run_id}",
            group=name,
            id=None if sweep_run_id() else run_id,
            resume="allow",
            mode=mode,
            settings=settings,
        )

    if mode == "offline":
        rank_zero_info(f"W&B is offline. {later}")
    try:
        return start(mode)
    except wandb.errors.UsageError:
        raise
    except wandb.Error as error:
        wandb.teardown()
        reason = str(error).strip().splitlines()[0]
        rank_zero_warn(f"W&B cannot be reached, so the run continues offline ({reason}). {later}")
        return start("offline")
