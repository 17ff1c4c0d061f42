"""Fit an encoder's patch whitening to the training images before a run starts."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from simmim_pl.contracts import InputError
from simmim_pl.encoders.patch_whitening import PatchWhitening
from simmim_pl.runtime.pixels import as_float, image_at

IMAGES, SIDE = 1024, 32  # images, evenly spaced in the data set, and pixels of the middle of each: a million patches


class FittedStem(Callback):
    """Fits every :class:`simmim_pl.encoders.patch_whitening.PatchWhitening` of a method when ``fit`` starts a new run.

    All ranks fit to the same images. A resumed run has the checkpoint's filters, and a second fit those of the first.

    Raises:
        InputError: the datamodule has no training split to read.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        stems = unfitted(pl_module)
        if not stems:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        training = getattr(datamodule, "splits", {}).get("train")
        if training is None:
            raise InputError('A whitening stem is fitted to training images: the datamodule needs splits["train"].')
        images = some_images(training).to(pl_module.device)
        for stem in stems:
            stem.fit(pl_module.encoder.normalize(images))


def unfitted(method: nn.Module) -> list[PatchWhitening]:
    """Layers that are not fitted yet, neither to images nor by a file's weights."""
    return [part for part in method.modules() if isinstance(part, PatchWhitening) and not part.fitted]


def some_images(training: Any) -> Float[Tensor, "B C h w"]:
    """The middle of some training images, in [0, 1]."""
    evenly = torch.linspace(0, len(training) - 1, min(IMAGES, len(training)), dtype=torch.float64).round().long()
    return torch.cat([middle(as_float(image_at(training, index))) for index in evenly.tolist()])


def middle(image: Float[Tensor, "1 C H W"]) -> Float[Tensor, "1 C h w"]:
    """At most ``SIDE`` × ``SIDE`` pixels."""
    cropped: Tensor = center_crop(image, [min(side, SIDE) for side in image.shape[-2:]])
    return cropped
