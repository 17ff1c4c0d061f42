"""Pixels as numbers: what uint8 and uint16 mean, and how any number of channels is shown."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

WHITE = {torch.uint8: 255, torch.uint16: 65535}  # the value that is 1 as a float


def rows_at(pixels: Shaped[Tensor, "N ..."], index: Int64[Tensor, " B"]) -> Shaped[Tensor, "B ..."]:
    """Images at some positions. uint16, which torch does not index on every device, is indexed as int16."""
    if pixels.dtype == torch.uint16:
        return pixels.view(torch.int16)[index].view(torch.uint16)
    return pixels[index]


def image_at(images: Any, index: int) -> Shaped[Tensor, "1 C H W"]:
    """An image of a torch dataset whose items have ``image``, read by a list of indices if it can be."""
    found = images.__getitems__([index]) if hasattr(images, "__getitems__") else images[index]
    image: Tensor = (found[0] if isinstance(found, list) else found)["image"]
    return image if image.ndim == 4 else image[None]


def as_float(pixels: Shaped[Tensor, "*N C H W"]) -> Float[Tensor, "*N C H W"]:
    """Pixels in [0, 1]: uint8 divided by 255, uint16 by 65535. Floats are returned as they are."""
    return pixels if pixels.is_floating_point() else pixels.float() / WHITE.get(pixels.dtype, 255)


def as_bytes(pixels: Shaped[Tensor, "*N C H W"]) -> UInt8[Tensor, "*N C H W"]:
    """Pixels or floats in [0, 1] as uint8, for pictures; uint8 is returned as it is."""
    return pixels if pixels.dtype == torch.uint8 else (255 * as_float(pixels)).round().to(torch.uint8)


def as_rgb(pictures: Shaped[Tensor, "*N C H W"]) -> Shaped[Tensor, "*N 3 H W"]:
    """What is shown of images of any number of channels: one as grey, the first three of more, two as red and green."""
    channels = pictures.shape[-3]
    if channels == 1:
        return pictures.expand(*pictures.shape[:-3], 3, *pictures.shape[-2:])
    if channels == 2:
        return torch.cat([pictures, torch.zeros_like(pictures[..., :1, :, :])], -3)
    return pictures[..., :3, :, :]
