"""Random resized crops of a whole batch: where to cut, and the cut itself as two matrix products."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from simmim_pl.runtime.constants import constant
from simmim_pl.runtime.seeding import uniform

ATTEMPTS = 10  # torchvision's: how many boxes an image may try before it takes the central one


def sample_crop(
    batch: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    device: torch.device,
) -> Int64[Tensor, "B 4"]:
    """Draw a box for each image: area uniform, aspect ratio log-uniform, place uniform.

    The distribution is that of torchvision's ``RandomResizedCrop`` (Szegedy et al. 2015, section 6), where an
    image retries until a box fits. Here all attempts are drawn at once and the first that fits is kept.

    Args:
        batch: B, the number of boxes.
        height: of the images, in pixels.
        width: of the images, in pixels.
        scale: least and greatest area, as a fraction of the image's.
        ratio: least and greatest width / height.
        generator: the only source of randomness; it may live on another device.
        device: where the boxes go.

    Returns:
        Top, left, height and width in pixels.
    """
    draws = uniform(generator, 4, batch, ATTEMPTS, along=1).to(device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** draws[1]
    h, w = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    top, left = (draws[2] * (height - h + 1)).floor(), (draws[3] * (width - w + 1)).floor()

    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.byte().argmax(dim=1)  # argmax keeps the first of equals
    boxes = torch.stack((top, left, h, w), dim=-1)[torch.arange(batch, device=device), first].long()
    fallback = constant(central_crop(height, width, ratio), device, torch.int64)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, fallback)


def central_crop(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest central box with an aspect ratio within ``ratio``: what is left when no draw fitted.

    >>> central_crop(32, 32, (3 / 4, 4 / 3))
    (0, 0, 32, 32)
    >>> central_crop(30, 90, (3 / 4, 4 / 3))
    (0, 25, 30, 40)
    """
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_resize(
    image: Float[Tensor, "B C H W"], boxes: Int64[Tensor, "B 4"], flip: Bool[Tensor, " B"], size: int
) -> Float[Tensor, "B C S S"]:
    """Cut a box from each image, resize it to ``size`` pixels a side, mirror it left to right where ``flip``.

    Bilinear resampling with antialiasing is separable, so all three are ``rows @ image @ cols``, with each image's own
    weights. Equals torchvision's ``resized_crop(..., antialias=True)`` on tensors up to rounding.

    Args:
        image: in [0, 1].
        boxes: top, left, height and width in pixels, within the image.
        flip: which images to mirror.
        size: S, the side of the result in pixels.
    """
    top, left, h, w = boxes.unbind(dim=1)
    rows = resampling(top, h, torch.zeros_like(flip), size, image.shape[2])
    cols = resampling(left, w, flip, size, image.shape[3]).mT
    # A product a channel: torch would copy the weights for each channel to do all three at once.
    return torch.stack([rows @ channel @ cols for channel in image.unbind(dim=1)], dim=1)


def resampling(
    start: Int64[Tensor, " B"],
    length: Int64[Tensor, " B"],
    mirror: Bool[Tensor, " B"],
    size: int,
    extent: int,
) -> Float[Tensor, "B S N"]:
    """Weight of each of N = ``extent`` pixels in each of S = ``size`` made from a box. Rows sum to 1.

    A triangle about the centre of each output pixel reaches one input pixel to either side when enlarging,
    one output pixel when reducing. A pixel outside the box weighs nothing, even within a triangle's reach.

    Args:
        start: first pixel of the box.
        length: of the box, in pixels.
        mirror: which boxes to read backwards.
        size: S.
        extent: N.

    >>> resampling(torch.tensor([1]), torch.tensor([2]), torch.tensor([False]), size=1, extent=4)
    tensor([[[-0.0000, 0.5000, 0.5000, -0.0000]]])
    """
    start, length, mirror = start[:, None], length[:, None], mirror[:, None]
    step = length / size
    output = torch.arange(size, device=start.device)
    centre = start + (torch.where(mirror, size - 1 - output, output) + 0.5) * step
    pixel = torch.arange(extent, device=start.device)
    inside = (pixel >= start) & (pixel < start + length)
    distance = torch.where(inside, pixel + 0.5, math.inf)[:, :, None] - centre[:, None]  # sums down a column are faster
    negative = distance.abs_().sub_(step.clamp(min=1.0)[:, :, None]).clamp_(max=0.0)  # of a weight, in place
    return negative.div_(negative.sum(dim=1, keepdim=True)).mT
