"""Keep one checkpoint, never partly written, from which a run resumes exactly."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as Base
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.nn.utils import get_total_norm

from simmim_pl.contracts import Batch, InputError
from simmim_pl.runtime import distributed, lost_ranks
from simmim_pl.runtime.atomic import DurableIO, write
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged
from simmim_pl.runtime.storable import storable

# The keyboard, a scheduler, and SLURM before its time limit; Windows has no USR1.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Checkpoint(Base):
    """Keeps ``checkpoints/last.ckpt`` of the run: the final epoch is what is evaluated, never the best one.

    A checkpoint is only made between two optimizer steps. A run resumed from it is bit-identical to an uninterrupted
    one (on a CPU), including the history in ``metrics.csv``. It replaces the previous one once it is completely on the
    disk. Ctrl-C and SIGTERM finish the step, save a checkpoint and end the run. So does SIGUSR1, which SLURM sends
    before a job's time is over (``--signal=USR1@120``); the job is then requeued. A second Ctrl-C ends the run at
    once. Errors save nothing: after a NaN loss the last good checkpoint stays.

    Args:
        every_n_epochs: epochs between two checkpoints.
        every_n_steps: optimizer steps between two checkpoints within an epoch; by default none by this count.
        every_n_minutes: minutes after which a long epoch gets a checkpoint too; by default a quarter of an hour.
    """

    @ranged
    def __init__(
        self,
        every_n_epochs: PositiveInt = 1,
        every_n_steps: PositiveInt | None = None,
        every_n_minutes: PositiveFloat | None = 15.0,
    ) -> None:
        self.every_n_epochs, self.every_n_steps, self.every_n_minutes = every_n_epochs, every_n_steps, every_n_minutes
        self.path: Path | None = None
        self.saved_step, self.saved_time = 0, time.monotonic()
        self.heard: signal.Signals | None = None
        self.within = False
        self.before: dict[signal.Signals, Any] = {}
        self.restored: str | None = None  # the history as the checkpoint has it

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            other = type(trainer.strategy.checkpoint_io)
            if other not in (TorchCheckpointIO, DurableIO):
                raise InputError(
                    f"The plugin {other.__name__} would have no effect, since the callback Checkpoint writes all "
                    "checkpoints itself: remove one of the two."
                )
            trainer.strategy.checkpoint_io = DurableIO()
            folder = trainer.log_dir  # asks all ranks
            trial = trainer.fast_dev_run  # type: ignore[attr-defined]
            self.path = None if trial or folder is None else Path(folder, "checkpoints/last.ckpt")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check now what would otherwise fail at the first checkpoint, after much training."""
        trainer.fit_loop.setup_data()  # sets the numbers of batches and validations
        every, steps = trainer.val_check_batch, trainer.accumulate_grad_batches
        if isinstance(every, int) and every < trainer.num_training_batches and steps % every == 0:
            raise InputError(
                "Every optimizer step would be followed by a validation, and a checkpoint needs two steps without a "
                f"validation between them: set --trainer.val_check_interval to more than {every}."
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            storable(callback.state_dict(), f"the state of the callback {type(callback).__name__}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step, self.saved_time, self.heard = trainer.global_step, time.monotonic(), None
        restore_history(trainer, self.restored)
        self.listen(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not between_steps(trainer, batch_idx):
            return
        overdue, *heard = distributed.any_rank([self.overdue(), *self.signals()])
        steps = self.every_n_steps is not None and trainer.global_step - self.saved_step >= self.every_n_steps
        if any(heard) or overdue or steps:
            self.within = True
            self.save(trainer, pl_module)
            self.within = False
        self.leave(trainer, heard)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        heard = distributed.any_rank(self.signals())
        if any(heard) or (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.save(trainer, pl_module)
        self.leave(trainer, heard)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.saved_step != trainer.global_step:
            self.save(trainer, pl_module)
        self.deafen()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.deafen()
        if distributed.is_connection_error(exception):
            lost_ranks.ignore_sigterm()

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint, unless a weight is not finite, which no loss may have shown yet."""
        if self.path is None:
            return
        spoilt = not get_total_norm(pl_module.parameters(), math.inf).isfinite()  # the largest weight: one read
        if distributed.any_rank([bool(spoilt)]) == [False]:  # either all ranks save or none
            trainer.save_checkpoint(self.path)
            self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.within:
            # Lightning has already counted the next batch as ready; the resumed run has to train on it.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count["ready"] = count["completed"]
            progress["is_last_batch"] = False
        path = history(trainer)
        if path is not None and path.is_file():
            checkpoint["history"] = path.read_text()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint.get("history")

    def signals(self) -> list[bool]:
        """For each of ``SIGNALS``, whether this rank has received it."""
        return [self.heard == number for number in SIGNALS]

    def overdue(self) -> bool:
        """Whether the last checkpoint is older than it should be by this rank's clock."""
        if self.path is None or self.every_n_minutes is None:
            return False
        return time.monotonic() - self.saved_time > 60 * self.every_n_minutes

    def listen(self, trainer: Trainer) -> None:
        """Handle signals by :meth:`hear` instead of by Lightning, which synchronises ranks through the GPU."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            self.before = {number: signal.signal(number, self.hear) for number in SIGNALS}

    def deafen(self) -> None:
        """Restore the previous signal handlers."""
        while self.before:
            signal.signal(*self.before.popitem())

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal until the step is over; a second Ctrl-C does not wait."""
        if self.heard is not None and number == signal.SIGINT:
            self.deafen()
            raise KeyboardInterrupt
        self.heard = signal.Signals(number)

    def leave(self, trainer: Trainer, heard: Sequence[bool]) -> None:
        """End the run if any rank has received a signal; exit code 128 + signal.

        With Lightning's launcher all ranks but zero exit with 0: it kills all ranks if a child exits with another code.
        """
        if not any(heard):
            return
        number = SIGNALS[list(heard).index(True)]
        where = f"To resume: --ckpt_path {self.path}" if self.path else "There is no checkpoint"
        rank_zero_info(f"Stopped by {number.name} after step {trainer.global_step}. {where}")
        job = os.environ.get("SLURM_JOB_ID")
        if number.name == "SIGUSR1" and trainer.is_global_zero and job:
            try:
                subprocess.run(["scontrol", "requeue", job], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                rank_zero_info(f"The job {job} could not be requeued ({error}).")
        environment = getattr(trainer.strategy, "cluster_environment", None)
        tells = trainer.is_global_zero or getattr(environment, "creates_processes_externally", False)
        raise SystemExit(128 + number if tells else 0)


def between_steps(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a training batch is the first of an optimizer step, with no validation between it and the one before.

    After a validation, Lightning would count a step twice on resuming. The end of an epoch is saved separately; any
    other such checkpoint is made a step or two later instead.
    """
    every = trainer.val_check_batch
    batches = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    validated = isinstance(every, int) and batches % every == 0
    return batch_idx > 0 and batch_idx % trainer.accumulate_grad_batches == 0 and not validated


def history(trainer: Trainer) -> Path | None:
    """``metrics.csv`` of this run, on the rank that writes it."""
    if not trainer.is_global_zero:
        return None
    folders = [logger.log_dir for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    return Path(folders[0], "metrics.csv") if folders else None


def restore_history(trainer: Trainer, text: str | None) -> None:
    """Restore ``metrics.csv`` as of the checkpoint's step, also after a kill."""
    path = history(trainer)
    if path is None or not text:
        return
    write(path, lambda file: file.write(text.encode()))
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) and Path(logger.log_dir) == path.parent:
            logger.experiment.metrics_keys = text.splitlines()[0].split(",")
