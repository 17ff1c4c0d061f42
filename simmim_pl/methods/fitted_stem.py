"""Fit an encoder's whitening layers to the training images before a run starts."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Shaped
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from simmim_pl.contracts import InputError
from simmim_pl.encoders.patch_whitening import PatchWhitening
from simmim_pl.runtime.pixels import as_float

PIXELS = 1_000_000  # of training images, evenly spaced in the data set: as many patches


class FittedStem(Callback):
    """Fits every :class:`simmim_pl.encoders.patch_whitening.PatchWhitening` of a method when ``fit`` starts a new run.

    All ranks fit to the same images. A resumed run has the checkpoint's filters, and a second fit those of the first.

    Raises:
        InputError: the datamodule has no training split to read.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        stems = unfitted(pl_module)
        if not stems or trainer.ckpt_path is not None:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        training = getattr(datamodule, "splits", {}).get("train")
        if training is None:
            raise InputError("A whitening stem is fitted to training images: it needs simmim_pl.data.ImageDataModule.")
        images = as_float(some_images(training).to(pl_module.device))
        for stem in stems:
            stem.fit(pl_module.encoder.normalize(images))


def unfitted(method: nn.Module) -> list[PatchWhitening]:
    """Layers that have no filters yet, neither from images nor from a file."""
    return [part for part in method.modules() if isinstance(part, PatchWhitening) and not part.fitted]


def some_images(training: Any) -> Shaped[Tensor, "B C H W"]:
    """Training images of about ``PIXELS`` pixels in all, or the middle of a single larger one."""
    side = math.isqrt(PIXELS)
    height, width = training.__getitems__([0])["image"].shape[-2:]
    number = max(1, PIXELS // (height * width))
    evenly = torch.linspace(0, len(training) - 1, min(number, len(training))).round().long().tolist()
    image: Tensor = training.__getitems__(evenly)["image"]
    return center_crop(image, [min(height, side), min(width, side)]) if number == 1 else image
