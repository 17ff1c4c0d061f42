"""Chance levels of metrics: the values of an encoder that gives the same features for all images."""

from __future__ import annotations

import math

from simmim_pl.report.labelled import labelled_names
from simmim_pl.report.run import Run
from simmim_pl.report.settings import flatten


def chance_levels(run: Run) -> dict[str, float]:
    """Chance levels by metric, as far as config and observations of a run determine them.

    - Accuracy of kNN and probe: the most frequent class's share (``val/chance``), or without it 1 / number of classes.
    - Accuracy on the labelled set NAME: its most frequent class's share (``val/chance/NAME``).
    - Contrastive accuracy: with V views of N images, V − 1 of the V·N − 1 other rows are of the same image.
    - Rotation accuracy: one of four angles.
    - Loss: if all similarities are equal, NT-Xent is log(V·N − 1), decoupled log(V·N − V). Other losses are left out.

    Metrics for which the run logs ``METRIC_at_chance`` are left out: that is a separate curve.
    """
    settings = flatten(run.config)
    found: dict[str, float] = {"train/rotation_accuracy": 1 / 4} if "train/rotation_accuracy" in run.history else {}
    if (classes := len(run.observed.get("classes", ()))) > 1:
        share = run.last("val/chance") if "val/chance" in run.history else 1 / classes
        found |= dict.fromkeys(("val/knn", "val/probe"), share)
    for name in labelled_names(run):
        if (chance := f"val/chance/{name}") in run.history:
            found |= dict.fromkeys((f"val/knn/{name}", f"val/linear/{name}"), run.last(chance))
    if "information/ceiling" in run.history:  # log of half the number of images; two views of each are compared
        found["representation/contrastive_accuracy"] = 1 / (4 * math.exp(run.last("information/ceiling")) - 1)
    views, images = settings.get("data.views.views"), settings.get("data.batch_size")
    if isinstance(views, int) and isinstance(images, int) and views > 1 and images > 1:
        views += settings.get("data.local_views.views") or 0
        found["train/contrastive_accuracy"] = (views - 1) / (views * images - 1)
        if settings.get("model.loss") == "simmim_pl.losses.NTXent":
            found["train/loss"] = math.log(views * images - (views if settings.get("model.loss.decoupled") else 1))
    return {metric: value for metric, value in found.items() if f"{metric}_at_chance" not in run.history}
