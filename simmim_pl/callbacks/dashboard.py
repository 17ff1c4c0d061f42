"""What a run shows besides its curves: the views as the encoder sees them, and images per second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torchvision.utils import make_grid, save_image

from simmim_pl.records import Batch


class Dashboard(Callback):
    """Shows the first batch's views, one image a row, in W&B and as ``views.png``; counts images per second.

    Args:
        images: rows of the grid of views.
        every: batches over which images per second are averaged.
    """

    def __init__(self, images: int = 8, every: int = 10) -> None:
        self.images, self.every = images, every
        self.seen, self.since = 0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen, self.since = 0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        first = trainer.global_step == 0 and batch_idx == 0
        if first and "views" in batch and trainer.is_global_zero and trainer.loggers:
            self.show(trainer, batch)

    def show(self, trainer: Trainer, batch: Batch) -> None:
        """Write the grid: an image a row, a view a column."""
        views = batch["views"][:, : self.images]
        grid = make_grid(views.transpose(0, 1).flatten(0, 1), nrow=len(views))
        folder = Path(trainer.loggers[0].log_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, folder / "views.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.log({"data/views": wandb.Image(grid, caption="one image a row, one view a column")})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.seen += len(batch["image"]) * trainer.world_size
        if batch_idx % self.every == self.every - 1 or trainer.is_last_batch:
            now = time.perf_counter()
            pl_module.log("train/images_per_second", self.seen / (now - self.since), prog_bar=True)
            self.seen, self.since = 0, now
