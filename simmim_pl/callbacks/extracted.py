"""Features of images outside the loops of the trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Shaped, UInt
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from simmim_pl.contracts import Batch
from simmim_pl.evaluation.features import Labelled
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_float


def extract(trainer: Any, module: Any, batches: Iterable[Batch], size: tuple[int, int] | None = None) -> Labelled:
    """Features and labels of the images of every rank's share, the same on every rank, by index where there is one.

    - ``batches``: this rank's share; may be empty.
    - ``size``: height and width at which the encoder sees the images; by default their own.
    """
    device = module.device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    parts = [(torch.zeros(0, module.encoder.embed_dim, device=device), none, none)]
    # A DataLoader draws a random number when it starts; the fork keeps that out of the run's random state.
    with trainer.precision_plugin.forward_context(), torch.random.fork_rng(devices=[]):
        for batch in batches:
            image, label = (batch[name].to(device, non_blocking=True) for name in ("image", "label"))
            index = batch["index"].to(device, non_blocking=True) if "index" in batch else torch.zeros_like(label)
            image = image if size is None else resized(image, *size)
            parts.append((module(as_float(image)).pooled.float(), label, index))
    features, label, index = (distributed.all_gather_uneven(torch.cat(part)) for part in zip(*parts, strict=True))
    order = index.argsort(stable=True)
    return features[order], label[order]


def resized(image: UInt[Tensor, "B C h w"], height: int, width: int) -> Shaped[Tensor, "B C H W"]:
    """The centre of images in the proportions of a size, resized to it, as :class:`simmim_pl.data.Folder` does.

    uint8 stays uint8; uint16, which torch does not resize, becomes floats in [0, 1].
    """
    rows, columns = image.shape[-2:]
    if (rows, columns) == (height, width):
        return image
    scale = min(rows / height, columns / width)
    centre = transforms.center_crop(image, [round(height * scale), round(width * scale)])
    how = transforms.InterpolationMode.BICUBIC
    centre = centre if centre.dtype == torch.uint8 else as_float(centre)
    found: Tensor = transforms.resize(centre, [height, width], how, antialias=True)
    return found if found.dtype == torch.uint8 else found.clamp_(0, 1)
