"""Begin a run after all checks have passed: claim its directory, start its loggers, save its config."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

import simmim_pl
from simmim_pl.command import loggers
from simmim_pl.command.run_directory import RunDirectory
from simmim_pl.contracts import InputError
from simmim_pl.runtime import checkpoint, distributed


class SaveConfig(SaveConfigCallback):
    """Begins a run once every check before it has passed: a mistake found earlier leaves no directory and no W&B run.

    Claims the run directory, starts its loggers, and writes the whole parsed config: to the directory, as it is nested
    to W&B, and into every checkpoint.
    """

    def __init__(
        self,
        *args: Any,
        directory: RunDirectory,
        wandb: bool,
        changes: list[dict[str, Any]],
        checkpoint: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoint = checkpoint
        self.directory, self.wandb, self.changes, self.begun = directory, wandb, changes, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Where nodes do not share a disk, one may find another checkpoint than the others, or none.
        distributed.require_equal_on_all_ranks({"checkpoint to resume from": self.checkpoint})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.config = self.config.clone()
        self.config.ckpt_path = None  # running the saved config again starts a new run
        self.begin(trainer, pl_module, "fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.begin(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin(trainer, pl_module, "predict")

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin the run, the first time."""
        if self.begun:
            return
        self.begun = True
        self.directory.claim()
        try:
            loggers.begin(trainer, self.directory.folder, self.wandb)
        except InputError:  # what W&B's environment says is wrong
            self.directory.discard()
            raise
        rank_zero_info(f"Run directory: {self.directory.folder}")
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # A resumed run finds its previous config, of which some settings may have changed.
                logger.experiment.config.update(self.nested, allow_val_change=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, saved: dict[str, Any]) -> None:
        saved |= {"config": self.nested, "format": checkpoint.FORMAT_VERSION, "version": simmim_pl.__version__}
        saved["changes"] = self.changes  # settings changed at each resumption, with the step

    @cached_property
    def nested(self) -> dict[str, Any]:
        """The config as plain nested values. Computed once, as dumping takes longer than writing a small checkpoint."""
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return config
