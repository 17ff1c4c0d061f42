"""Rotation prediction: by how much was this image turned?"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from simmim_pl.contracts import Batch, Encoder, InputError
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.required_views import require_view_maker, views_of
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_float

ANGLES = (0, 90, 180, 270)  # degrees, anticlockwise


class Rotation(Method):
    """RotNet (Gidaris et al. 2018, arXiv 1803.07728): a linear classifier predicts which of four angles an image has.

    Every view is in the batch four times, once at each angle, so the network sees ``4·V·B`` images per step. One view
    of each image suffices. The last layers become specific to the task: evaluate an earlier one, with
    ``--model.layer``.

    Args:
        encoder: image → features; the part that is kept.
        kwargs: see :class:`simmim_pl.methods.method.Method`.
    """

    compiles = ("encoder", "classifier")

    def __init__(self, encoder: Encoder, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.classifier = nn.Linear(encoder.embed_dim, len(ANGLES))

    def on_fit_start(self) -> None:
        require_view_maker(self, "CropFlip", local_views=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        views = views_of(batch, 1, "CropFlip").flatten(0, 1)  # [A, C, S, S]
        if views.shape[2] != views.shape[3]:
            raise InputError(f"Rotation needs square views, and these are of {views.shape[2]}×{views.shape[3]} pixels.")
        pooled = self.encoder(rotations(views)).pooled  # [4·A, D]
        logits = self.classifier(pooled)
        angle = torch.arange(len(ANGLES), device=logits.device).repeat_interleave(len(views))
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), angle)
        self.log("train/rotation_accuracy", partial(accuracy, logits.detach(), angle), prog_bar=True)
        self.log("train/loss_at_chance", math.log(len(ANGLES)))
        return self.finish(loss, pooled[: len(views)], batch)  # of upright images, as validation has them

    def pictures(self, batch: Batch) -> dict[str, Float[Tensor, "N K C H W"]]:
        image = center_crop(as_float(batch["image"]), [min(batch["image"].shape[-2:])] * 2)
        name = f"image turned by {', '.join(map(str, ANGLES))} degrees"
        return {name: rotations(image).unflatten(0, (len(ANGLES), -1)).transpose(0, 1)}


def rotations(images: Shaped[Tensor, "A C S S"]) -> Shaped[Tensor, "4*A C S S"]:
    """All images upright, then all turned by 90 degrees anticlockwise, by 180, and by 270."""
    return torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(len(ANGLES))])


def accuracy(logits: Float[Tensor, "N 4"], angle: Int64[Tensor, " N"]) -> Float[Tensor, ""]:
    """Share of images of all ranks whose angle is predicted correctly. All ranks must call it."""
    return distributed.all_reduce_mean((logits.argmax(1) == angle).float().mean())
