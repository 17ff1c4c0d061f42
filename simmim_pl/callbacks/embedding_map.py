"""Nearest neighbours of fixed validation images, and a two-dimensional map of the embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.callbacks.principal_axes import ROUNDING
from simmim_pl.contracts import Batch
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_bytes, as_rgb
from simmim_pl.runtime.ranges import PositiveInt, ranged
from simmim_pl.runtime.unit_norm import unit as on_sphere

THUMBNAIL = 64  # pixels, at most


class EmbeddingMap(Callback):
    """Finds nearest neighbours and draws a map at every validation, for the dashboard and the report.

    Neighbours are by cosine similarity of the encoder's features. The map is the first two principal axes of
    features of length one: linear, so that it cannot invent clusters, and the same for the same features.

    Args:
        images: number of images on the map, over all devices, evenly spaced in the validation split.
        queries: number of images whose neighbours are shown, the same at every validation.
        neighbours: number of neighbours of each query.
    """

    @ranged
    def __init__(self, images: PositiveInt = 1000, queries: PositiveInt = 8, neighbours: PositiveInt = 6) -> None:
        self.images, self.queries, self.neighbours = images, queries, neighbours
        self.parts: list[dict[str, Tensor]] = []
        self.found: dict[str, Any] = {}  # at the last validation, on rank zero

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        if "index" not in batch:  # of a DataLoader from elsewhere
            if batch_idx == 0 and not trainer.sanity_checking:
                rank_zero_info('Validation batches have no "index", which EmbeddingMap needs: its map is empty.')
            return
        wanted = math.ceil(self.images / trainer.world_size / trainer.num_val_batches[0])
        part: dict[str, Tensor] = {"index": batch["index"], "features": outputs["features"].float()}
        part |= {"label": batch["label"]} if "label" in batch else {}
        part["image"] = thumbnails(batch["image"][:wanted])
        self.parts.append({name: rows[:wanted].clone() for name, rows in part.items()})  # or the whole batch stays

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.parts:
            return
        columns = {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}
        self.parts.clear()
        rows = {name: distributed.all_gather_uneven(column) for name, column in columns.items()}
        if trainer.is_global_zero:
            self.found = self.draw(*evenly(once(rows), self.images)) | {"step": trainer.global_step}
            self.found["classes"] = list(getattr(trainer.datamodule, "classes", []))  # type: ignore[attr-defined]

    def draw(self, features: Float[Tensor, "N D"], image: Tensor, label: Int64[Tensor, " N"]) -> dict[str, Any]:
        """Neighbours and map, on the CPU; nothing where there are too few images, or features are not finite."""
        features, image, label = features.cpu(), image.cpu(), label.cpu()
        if len(features) < 4 or not features.isfinite().all():
            return {}
        unit = on_sphere(features)
        (query,) = evenly((torch.arange(len(unit)),), self.queries)
        similarity, near = neighbours(unit, query, min(self.neighbours, len(unit) - 1))
        shown = torch.cat([query[:, None], near], dim=1)
        place, explained = principal(unit)
        found = {"place": place, "explained": explained, "label": label, "similarity": similarity}
        return found | {"shown": image[shown], "shown_label": label[shown]}


def once(rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, images and labels (−1 if there are none) by index, without the images that uneven ranks repeat."""
    order = rows["index"].argsort(stable=True)
    index = rows["index"][order]
    order = order[torch.cat([index.new_ones(1, dtype=torch.bool), index[1:] != index[:-1]])]
    label = rows.get("label", torch.full_like(rows["index"], -1))
    return rows["features"][order], rows["image"][order], label[order]


def evenly(rows: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    """At most this number of rows, evenly spaced.

    >>> evenly((torch.arange(9),), 3)
    (tensor([0, 4, 8]),)
    """
    chosen = torch.linspace(0, len(rows[0]) - 1, min(number, len(rows[0]))).round().long().to(rows[0].device)
    return tuple(column[chosen] for column in rows)


def neighbours(
    unit: Float[Tensor, "N D"], query: Int64[Tensor, " Q"], number: int
) -> tuple[Float[Tensor, "Q K"], Int64[Tensor, "Q K"]]:
    """Cosine similarity and index of the nearest other rows.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> neighbours(rows, torch.tensor([1]), 1)
    (tensor([[0.8000]]), tensor([[2]]))
    """
    similarity = unit[query] @ unit.T
    similarity[torch.arange(len(query)), query] = -math.inf
    best = similarity.topk(number, dim=1)
    return best.values, best.indices


def principal(rows: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " 2"]]:
    """Coordinates on the first two principal axes, and the axes' shares of variance.

    The sign of an axis makes its largest coordinate positive. Rows that are equal up to rounding have no axes: their
    coordinates are zero.
    """
    centred = F.pad(rows - rows.mean(0), (0, max(2 - rows.shape[1], 0)))
    if centred.square().sum(1).mean() < ROUNDING:
        return rows.new_zeros(len(rows), 2), rows.new_zeros(2)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    place = (left * singular)[:, :2]
    farthest = place.gather(0, place.abs().argmax(0, keepdim=True))
    return place * farthest.sign(), (singular.square() / singular.square().sum())[:2]


def thumbnails(image: Tensor) -> Tensor:
    """Images of at most 64 pixels a side, larger ones averaged; RGB, uint8 ``[N, 3, h, w]``."""
    image = as_bytes(as_rgb(image))
    longest = max(image.shape[-2:])
    if longest <= THUMBNAIL:
        return image
    image = image.cpu() if image.device.type == "mps" else image  # which averages areas of whole pixels only
    size = [max(round(side * THUMBNAIL / longest), 1) for side in image.shape[-2:]]
    return F.interpolate(image.float(), size, mode="area").round().to(torch.uint8)
