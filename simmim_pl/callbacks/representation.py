"""Is it learning, collapsing or cheating? What the representation is like, labels or not, while the encoder trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from simmim_pl.metrics import Alignment, MutualInformation, Similarities, Spectrum, Uniformity
from simmim_pl.records import Batch
from simmim_pl.seeding import seeded

OF_PAIRS = {"alignment": Alignment, "similarities": Similarities, "information": MutualInformation}


class Representation(Callback):
    """Measures validation images at every validation, and touches nothing of the run.

    Of the encoder's features of clean images:

    - ``representation/rankme``: directions that the features use, from 1 to D.
    - ``representation/std``: standard deviation of a normalised feature's coordinates times √D, their mean: near 1 when
      images spread over the sphere, 0 when all are the same (Chen & He 2021, arXiv 2011.10566, section 4.1).

    Of the projections of two views of some images, which are the same views at every validation:

    - ``representation/alignment``: squared distance of an image's views, from 0; independent ones are at 2.
    - ``representation/uniformity``: from about −4, spread evenly, to 0, all the same.
    - ``representation/projections_rankme``: directions that the projections use.
    - ``information/infonce``, ``information/nwj``, ``information/smile``: lower bounds on what two views tell of each
      other, in nats; the first cannot exceed ``information/ceiling``. See :mod:`simmim_pl.metrics.mutual_information`.

    Args:
        images: of which views are made, on all devices together; the ceiling is their logarithm.
    """

    def __init__(self, images: int = 1024) -> None:
        self.images = images
        self.seen = 0
        self.metrics: dict[str, Metric] = {}
        self.found: dict[str, Tensor] = {}  # of the last validation, histograms and singular values too

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen, self.metrics = 0, {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        features = outputs["features"].float()
        self.update(features, "features", partial(Spectrum, features.shape[1]))
        self.update(F.normalize(features, dim=-1), "directions", partial(Spectrum, features.shape[1]))
        left = self.images // trainer.world_size - self.seen
        if left > 0:
            z = projections(trainer, pl_module, batch, batch_idx)[:, :left]
            self.seen += z.shape[1]
            self.update(z[0], "projections", partial(Spectrum, z.shape[-1]))
            self.update(z[0], "uniformity", Uniformity)
            for name, kind in OF_PAIRS.items():
                self.update(z, name, kind)

    def update(self, rows: Tensor, name: str, kind: Callable[[], Metric]) -> None:
        """Show rows to a metric, which is made when it first sees some."""
        if name not in self.metrics:
            self.metrics[name] = kind().to(rows.device)
        self.metrics[name].update(rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self.seen * trainer.world_size < 4:  # too few to compare
            return
        known: dict[str, Any] = {name: metric.compute() for name, metric in self.metrics.items()}
        std = known["directions"]["std"]
        scalars = {"rankme": known["features"]["rankme"], "std": std.mean() * std.numel() ** 0.5}
        scalars["projections_rankme"] = known["projections"]["rankme"]
        scalars |= {name: known[name] for name in ("alignment", "uniformity")}
        scalars = {f"representation/{name}": value for name, value in scalars.items()}
        scalars |= {f"information/{name}": value for name, value in known["information"].items()}
        for name, value in scalars.items():
            pl_module.log(name, value)
        self.found = {**scalars, **known["similarities"], "singular": known["features"]["singular"]}


def projections(trainer: Trainer, method: Any, batch: Batch, batch_idx: int) -> Float[Tensor, "2 b P"]:
    """Two views of each image, projected as training would, but by the encoder in evaluation."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    generator = seeded(data.seed, batch_idx, batch["image"].device, *data.place())
    with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
        views = data.views(batch["image"], generator)[:2]
        z: Tensor = method.project(views)[1]
    return z.float()
