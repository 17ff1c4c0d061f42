"""What a run shows besides its curves: the views as the encoder sees them, images per second, the result card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torchvision.utils import make_grid, save_image

from simmim_pl.evaluation import Evaluation
from simmim_pl.records import Batch


class Dashboard(Callback):
    """Shows the first batch's views, one image a row, in W&B and as ``views.png``; counts images per second.

    Of an evaluation it sends the result card to W&B: whole to the run's summary, as tables of results and of classes,
    and the confusion matrices of the encoder that is judged (its baselines' are in ``result.json``).

    Args:
        images: rows of the grid of views.
        every: batches over which images per second are averaged.
    """

    def __init__(self, images: int = 8, every: int = 10) -> None:
        self.images, self.every = images, every
        self.seen, self.since = 0, 0.0
        self.reported = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which is not called when a run goes on within an epoch

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
        self.seen += len(batch["index"]) * trainer.world_size
        if batch_idx % self.every == self.every - 1 or trainer.is_last_batch:
            now = time.perf_counter()
            pl_module.log("train/images_per_second", self.seen / (now - self.since), prog_bar=True)
            self.seen, self.since = 0, now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module)

    def report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send an evaluation's card to W&B, once."""
        if isinstance(pl_module, Evaluation) and pl_module.card and trainer.is_global_zero and not self.reported:
            self.reported = True
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.summary.update({"card": pl_module.card})
                    logger.experiment.log(panels(pl_module.card))


def panels(card: dict[str, Any]) -> dict[str, Any]:
    """A result card as W&B tables and confusion matrices, by their names in the dashboard."""
    place = ["data", "task", "variant", "encoder"]
    values = wandb.Table([*place, "metric", "value", "low", "high"])
    classes = wandb.Table([*place, "class", "value"])
    found: dict[str, Any] = {"evaluation/results": values, "evaluation/classes": classes}
    for result in card["results"]:
        row = [result[key] for key in place]
        for metric, estimate in result["metrics"].items():
            values.add_data(*row, metric, estimate["value"], *estimate["interval"])
        for name, value in result["per_class"].items():
            classes.add_data(*row, name, value)
        if result["encoder"] == card["results"][0]["encoder"]:
            found[" ".join(["evaluation/confusion of", *filter(None, row)])] = confusion(result)
    return found


def confusion(result: dict[str, Any]) -> Any:
    """W&B's chart of a confusion matrix from its counts; ``wandb.plot.confusion_matrix`` wants every prediction."""
    names, counts = list(result["per_class"]), result["confusion"]
    table = wandb.Table(["Actual", "Predicted", "nPredictions"])
    for actual, row in zip(names, counts, strict=True):
        for predicted, count in zip(names, row, strict=True):
            table.add_data(actual, predicted, count)
    fields = {str(name): str(name) for name in table.columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": "Confusion matrix"})
