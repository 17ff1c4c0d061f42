"""Measure the representation during training, without labels: is it learning, collapsing or taking a shortcut?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.callbacks.projections import lacking, projections
from simmim_pl.callbacks.untrained import untrained
from simmim_pl.contracts import Batch
from simmim_pl.metrics import (
    Alignment,
    ContrastiveAccuracy,
    EffectiveRank,
    EmbeddingStd,
    MutualInformation,
    Similarities,
    Uniformity,
    rankme,
)
from simmim_pl.runtime.ranges import Range, ranged
from simmim_pl.runtime.unit_norm import unit

OF_PAIRS: dict[str, Callable[[], Metric]] = {
    **{"alignment": Alignment, "similarities": Similarities, "information": MutualInformation},
    "contrastive_accuracy": ContrastiveAccuracy,
}
OF_ALL = ("alignment", "uniformity", "contrastive_accuracy")
# Also logged of the network before training.
BESIDE = (
    "information/infonce",
    *(f"representation/{name}" for name in ("contrastive_accuracy", "rankme", "feature_std")),
)


class Representation(Callback):
    """Measures the representation of validation images at every validation, without any effect on the training.

    Of the encoder's features of clean images:

    - ``representation/rankme``: effective rank of the features, from 1 to D (Garrido et al. 2023).
    - ``representation/feature_std``: spread of a coordinate, 0 when all features are the same.

    Of the projections of two views of some images (the same views at every validation), if the method has projections
    and the datamodule makes views; otherwise a message when training starts says what is missing:

    - ``representation/std``: spread of a coordinate, 1 when projections cover the sphere, 0 when all are the same.
    - ``representation/directions``: effective rank of the centred projections, computed as RankMe but from squared
      singular values, so that a little noise in many directions does not count for much.
    - ``representation/alignment``: squared distance of an image's views: 0 if equal, 2 if independent.
    - ``representation/contrastive_accuracy``: how often the view most similar to a view is of the same image.
    - ``representation/uniformity``: from about −4, spread evenly, to 0, all the same.
    - ``information/infonce``, ``information/nwj``: lower bounds on the mutual information of two views, in nats; the
      first cannot exceed ``information/ceiling``. ``information/smile``: an estimate of it. See
      :mod:`simmim_pl.metrics.mutual_information`.

    Names that end in ``_untrained`` are of the network before its first step: views share information then too, as far
    as a random network keeps it.

    Args:
        images: number of images to make views of, over all devices, evenly spaced in the validation split, since sets
            are often sorted by class. The ceiling is the logarithm of half of it.
    """

    @ranged
    def __init__(self, images: Annotated[int, Range("[2, inf)")] = 1024) -> None:
        self.images = images
        self.seen = 0
        self.metrics: dict[str, Metric] = {}
        self.found: dict[str, Tensor] = {}  # of the last validation, histograms and singular values too
        self.before: dict[str, float] = {}  # metrics of the untrained network

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if reason := lacking(trainer, pl_module):
            rank_zero_info(f"{reason[0].upper()}{reason[1:]}: Representation measures its features only.")
        if trainer.global_step == 0:
            with untrained(trainer, pl_module) as steps:
                self.on_validation_epoch_start(trainer, pl_module)
                for step in steps:
                    self.on_validation_batch_end(trainer, pl_module, *step)
                scalars, _ = self.measured(trainer)
            self.before = {f"{name}_untrained": float(scalars[name]) for name in BESIDE if name in scalars}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen, self.metrics = 0, {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        features = outputs["features"].float()
        self.update(features, "features", partial(EffectiveRank, features.shape[1]))
        self.update(features, "feature_std", partial(EmbeddingStd, features.shape[1]))
        wanted = math.ceil(self.images / trainer.world_size / trainer.num_val_batches[0])
        image = batch["image"][:wanted]
        self.seen += len(image)
        if lacking(trainer, pl_module):
            return
        z = projections(trainer, pl_module, image, batch_idx)
        self.update(z[0], "std", partial(EmbeddingStd, z.shape[-1]))
        self.update(unit(z[0]), "directions", partial(EffectiveRank, z.shape[-1], centred=True))
        self.update(z[0], "uniformity", Uniformity)
        for name, kind in OF_PAIRS.items():
            self.update(z, name, kind)

    def update(self, rows: Tensor, name: str, kind: Callable[[], Metric]) -> None:
        """Update a metric with rows; it is created at its first update."""
        if rows.device.type == "mps":  # which has no float64
            rows = rows.cpu()
        if name not in self.metrics:
            self.metrics[name] = kind().to(rows.device)
        self.metrics[name].update(rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        scalars, rest = self.measured(trainer)
        self.found = {**scalars, **rest}
        if scalars:
            pl_module.log_dict(scalars)
            pl_module.log_dict(self.before)

    def measured(self, trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scalars by logged name, and the measurements that are no scalars; both empty if there are too few images."""
        if self.seen * trainer.world_size < 4:
            return {}, {}
        known: dict[str, Any] = {name: metric.compute() for name, metric in self.metrics.items()}
        rest = {"singular": known["features"]["singular"]}
        scalars = {
            "representation/rankme": known["features"]["rankme"],
            "representation/feature_std": known["feature_std"].mean(),
        }
        if "directions" in known:
            found = {"directions": rankme(known["directions"]["singular"].square()), "std": known["std"].mean()}
            found |= {name: known[name] for name in OF_ALL}
            scalars |= {f"representation/{name}": value for name, value in found.items()}
            scalars |= {f"information/{name}": value for name, value in known["information"].items()}
            rest |= known["similarities"]
        return scalars, rest

    def state_dict(self) -> dict[str, float]:
        return self.before

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.before = state_dict
