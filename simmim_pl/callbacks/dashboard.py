"""What W&B shows of a run besides its curves: views, neighbours, map, spectrum, histograms, result card, checkpoint."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image
from torchvision.utils import make_grid, save_image

from simmim_pl.callbacks.budget import Budget
from simmim_pl.callbacks.observed import observed, run_directory
from simmim_pl.contracts import Batch
from simmim_pl.evaluation import Evaluation
from simmim_pl.report.observed import PICTURE
from simmim_pl.runtime import atomic
from simmim_pl.runtime.pixels import as_rgb
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, ranged

MANY = 50  # classes; W&B's chart is a table with a row per pair of classes, which W&B truncates silently


class Dashboard(Callback):
    """Logs to W&B what a curve cannot show.

    - ``data/views``, also as ``views.png`` in the run directory: the first batch's views, one image per row.
    - After validations and at the end, of what :class:`simmim_pl.callbacks.Representation` and
      :class:`simmim_pl.callbacks.EmbeddingMap` found: ``representation/positive`` and ``negative``, histograms of
      similarities; ``representation/spectrum``, singular values; ``representation/neighbours``, a query a row;
      ``representation/map``; and of the method's own :class:`simmim_pl.callbacks.Pictures`, ``pictures/NAME``.
    - After an evaluation its result card: complete in the run's summary, as tables of results and of classes, and the
      confusion matrices, of up to fifty classes, of the evaluated encoder (its baselines' are in ``result.json``).
    - The last checkpoint as an artifact of type ``model``, when the run ends. It is a hard link, ``last-STEP.ckpt``,
      which a resumed run does not overwrite.

    Args:
        images: rows of the grid of views.
        checkpoint: whether the checkpoint becomes an artifact, which W&B uploads when it is online.
        share: the largest share of a training run's time that drawing may take; pictures that would take more wait for
            a later validation.
    """

    @ranged
    def __init__(self, images: PositiveInt = 8, checkpoint: bool = True, share: NonNegativeFloat = 0.02) -> None:
        self.images, self.checkpoint = images, checkpoint
        self.budget, self.drawn = Budget(share, guess=0.2), -1  # the step of the last pictures
        self.reported = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        first = trainer.global_step == 0 and batch_idx == 0
        if first and "views" in batch and trainer.is_global_zero and trainer.loggers:
            self.show(trainer, batch)

    def show(self, trainer: Trainer, batch: Batch) -> None:
        """Write the grid: one image per row, one view per column."""
        views = batch["views"][:, : self.images]
        grid = make_grid(as_rgb(views.transpose(0, 1).flatten(0, 1)), nrow=len(views))
        folder = run_directory(trainer)
        if folder is None:
            return
        atomic.write(folder / "views.png", lambda file: save_image(grid, file, format="png"))
        # From the file, not the tensor: if rounding puts one value above 1, W&B takes all values as 0 to 255.
        picture = Image.open(folder / "views.png")
        caption = "one image per row, one view per column"
        caption += f", the first three of {channels} channels" if (channels := views.shape[2]) > 3 else ""
        send(trainer, {"data/views": wandb.Image(picture, caption=caption)})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self.budget.allows():
            self.picture(trainer)
        self.report(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.picture(trainer)
        self.report(trainer, pl_module)

    def picture(self, trainer: Trainer) -> None:
        """Send what callbacks observed at the last validation, once."""
        found = observed(trainer)
        if online(trainer) and found.get("step", trainer.global_step) != self.drawn:
            try:
                with self.budget:
                    send(trainer, pictures(found))
            except Exception as error:  # whatever else it is, a picture is not worth the run
                if atomic.is_disk_full(error):
                    raise
                rank_zero_warn(f"W&B gets no pictures of step {trainer.global_step} ({type(error).__name__}: {error}).")
            self.drawn = found.get("step", trainer.global_step)
        for run in online(trainer):
            require_written(run)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_directory(trainer)
        if self.checkpoint and folder is not None and (path := folder / "checkpoints/last.ckpt").is_file():
            for run in online(trainer):
                artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata={"step": trainer.global_step})
                add(artifact, path, trainer.global_step)
                run.log_artifact(artifact)

    def report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send an evaluation's card to W&B, once."""
        if isinstance(pl_module, Evaluation) and pl_module.card and not self.reported:
            self.reported = True
            for run in online(trainer):
                run.summary.update({"card": pl_module.card})
            send(trainer, panels(pl_module.card))


def online(trainer: Trainer) -> list[Any]:
    """W&B runs, also offline ones, on rank zero; an empty list on other ranks, or if W&B is disabled."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    runs = [logger.experiment for logger in loggers] if trainer.is_global_zero else []
    return [run for run in runs if not run.disabled]


def send(trainer: Trainer, shown: dict[str, Any]) -> None:
    """Log at the run's step, as the curves are."""
    for run in online(trainer) if shown else ():
        run.log({**shown, "trainer/global_step": trainer.global_step})


def require_written(run: Any) -> None:
    """Raise if W&B could not write the run's history: its service process reports that in its log only.

    Raises:
        WriteError: the disk is full.
    """
    log = Path(run.settings.log_internal)
    said = log.read_text(encoding="utf-8", errors="replace").lower() if log.is_file() else ""
    for code in atomic.DISK_FULL_ADVICE:
        if os.strerror(code).lower() in said:
            raise atomic.WriteError(code, os.strerror(code), run.settings.sync_file)


def add(artifact: Any, checkpoint: Path, step: int) -> None:
    """Add a checkpoint to an artifact without a copy, by a hard link that a resumed run does not replace."""
    kept = checkpoint.with_name(f"{checkpoint.stem}-{step}{checkpoint.suffix}")
    try:
        kept.unlink(missing_ok=True)
        kept.hardlink_to(checkpoint)
        artifact.add_file(str(kept.absolute()), name=checkpoint.name, policy="immutable")
    except OSError:  # a file system without links: W&B copies it
        artifact.add_file(str(checkpoint), policy="mutable")


def pictures(found: dict[str, Any]) -> dict[str, Any]:
    """What callbacks observed, as W&B's own media."""
    shown: dict[str, Any] = {}
    for name in ("positive", "negative"):
        if name in found:
            counts = found[name].numpy()
            edges = np.linspace(-1, 1, len(counts) + 1)
            shown[f"representation/{name}"] = wandb.Histogram(np_histogram=(counts, edges))
    shown |= {f"representation/{name}": wandb.Image(picture) for name, picture in drawings(found).items()}
    if "shown" in found:
        rows = found["shown"]
        grid = make_grid(rows.flatten(0, 1), nrow=rows.shape[1])
        caption = "on the left fixed validation images, then their nearest neighbours"
        shown["representation/neighbours"] = wandb.Image(grid.permute(1, 2, 0).numpy(), caption=caption)
    for name in found:
        if name.startswith(PICTURE):
            shown[f"pictures/{name.removeprefix(PICTURE)}"] = wandb.Image(np.asarray(found[name]))
    return shown


def drawings(found: dict[str, Any]) -> dict[str, Image.Image]:
    """Two of the report's charts as pictures; the third, of similarities, W&B draws itself."""
    from simmim_pl.report.charts import png  # imports matplotlib, which takes half a second
    from simmim_pl.report.figures import figures

    wanted = ("singular", "place", "label", "classes", "explained")
    charts = figures({name: np.asarray(found[name]) for name in wanted if name in found})
    return {name: Image.open(io.BytesIO(png(figure))) for name, figure in charts.items()}


def panels(card: dict[str, Any]) -> dict[str, Any]:
    """A result card as W&B tables and confusion matrices, by their names in the dashboard."""
    place = ["data", "task", "variant", "encoder"]
    values = wandb.Table([*place, "metric", "value", "low", "high"])
    classes = wandb.Table([*place, "class", "value"])
    found: dict[str, Any] = {"evaluation/results": values}
    for result in card["results"]:
        row = [result[key] for key in place]
        for metric, estimate in result["metrics"].items():
            values.add_data(*row, metric, estimate["value"], *estimate["interval"])
        names = result.get("per_class", {})  # optional
        for name, value in names.items():
            classes.add_data(*row, name, value)
            found["evaluation/classes"] = classes
        evaluated = result["encoder"] == card["results"][0]["encoder"]
        if evaluated and "confusion" in result and len(names) <= MANY:
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
