"""Colour jitter of a batch, with separate factors and order of operations for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from simmim_pl.runtime.constants import constant
from simmim_pl.runtime.ranges import NonNegativeFloat, Probability, Range, ranged
from simmim_pl.runtime.seeding import uniform
from simmim_pl.views.grayscale import LUMA, luma
from simmim_pl.views.operation import Operation

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
IDLE = (1.0, 1.0, 1.0, 0.0)  # the factors that change nothing


class ColorJitter(Operation):
    """torchvision's ``ColorJitter``, applied to each image with a probability.

    Args:
        probability: that the colours of a view are jittered.
        brightness: factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: factor is uniform in [max(0, 1 - contrast), 1 + contrast].
        saturation: factor is uniform in [max(0, 1 - saturation), 1 + saturation].
        hue: shift is uniform in [-hue, hue], a fraction of the circle, at most 0.5.
    """

    @ranged
    def __init__(
        self,
        probability: Probability = 0.8,
        brightness: NonNegativeFloat = 0.4,
        contrast: NonNegativeFloat = 0.4,
        saturation: NonNegativeFloat = 0.4,
        hue: Annotated[float, Range("[0, 0.5]")] = 0.1,
    ) -> None:
        self.probability, self.strength = probability, (brightness, contrast, saturation, hue)

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Jitter:
        """Factors and an order."""
        return sample_jitter(batch, self.probability, self.strength, generator, device)

    def apply(self, view: Float[Tensor, "B C S S"], parameters: Jitter) -> Float[Tensor, "B C S S"]:
        """Jitter each image."""
        return jitter(view, parameters)


@dataclass(frozen=True)
class Jitter:
    """What to do to each image. Factors ``IDLE`` leave an image as it is.

    Attributes:
        factor: brightness, contrast and saturation as multiples, then hue as a fraction of the whole circle.
        order: the four operations in the order in which to do them, as positions in ``factor``.
    """

    factor: Float[Tensor, "B 4"]
    order: Int64[Tensor, "B 4"]

    def __getitem__(self, rows: slice | Int64[Tensor, " N"]) -> Jitter:
        """Of some of the images."""
        return Jitter(self.factor[rows], self.order[rows])


def sample_jitter(
    batch: int,
    probability: float,
    strength: tuple[float, float, float, float],
    generator: torch.Generator,
    device: torch.device,
) -> Jitter:
    """Draw an order and factors for each image as torchvision's ``ColorJitter`` does, or idle factors.

    Args:
        batch: B, the number of images.
        probability: that an image is jittered at all.
        strength: s of brightness, contrast and saturation, whose factor is uniform in [max(0, 1 − s), 1 + s];
            and of hue, whose shift is uniform in [−s, s].
        generator: the only source of randomness; it may live on another device.
        device: where the parameters go.
    """
    draws = uniform(generator, batch, 9, along=0).to(device)
    low, width = (constant(each, device) for each in limits(strength))
    chosen = draws[:, 8:] < probability
    factor = torch.where(chosen, low + width * draws[:, :4], constant(IDLE, device))
    return Jitter(factor, order=draws[:, 4:8].argsort(dim=1))


@lru_cache
def limits(strength: tuple[float, float, float, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower limits of the factors, and the widths of their ranges, in float32."""
    still, reach = np.array((IDLE, strength), np.float32)
    low = np.maximum(still - reach, np.array((0, 0, 0, -math.inf), np.float32))
    return tuple(low.tolist()), tuple((still + reach - low).tolist())


def jitter(image: Float[Tensor, "B C H W"], parameters: Jitter) -> Float[Tensor, "B C H W"]:
    """Change brightness, contrast, saturation and hue of images in [0, 1], each image in its own order.

    Images that are not RGB keep their saturation and hue: their factors have to be idle.
    The formulas are those of torchvision's ``adjust_*`` on float tensors. Brightness, contrast and saturation share one
    formula, :func:`blend_`, so images with different orders are processed together. Images are sorted by how many of
    the three come before hue, idle ones last, so that each step works on a slice, and hue is turned only once.
    """
    idle = (parameters.factor == parameters.factor.new_tensor(IDLE)).all(dim=1)
    before = (parameters.order == HUE).byte().argmax(dim=1).masked_fill_(idle, 4)
    ends = before.bincount(minlength=5).cumsum(dim=0).tolist()
    sorting = before.argsort()
    pixel = image.flatten(2).index_select(0, sorting)  # an index in brackets would copy number by number
    jittered, sort = pixel[: ends[3]], parameters[sorting[: ends[3]]]
    blends = list(enumerate(blending(sort)))
    for step, weights in blends:
        blend_(jittered[ends[step] :], weights[:, ends[step] :])
    if image.shape[1] == len(LUMA):  # others have no hue
        jittered.copy_(turn_hue(jittered, sort.factor[:, HUE]))
    for step, weights in blends:
        blend_(jittered[: ends[step]], weights[:, : ends[step]])
    return pixel.index_select(0, sorting.argsort()).view_as(image)


def blending(parameters: Jitter) -> Float[Tensor, "3 3 B 1"]:
    """Weights of :func:`blend_` for the three operations other than hue, in each image's order."""
    step = parameters.order[parameters.order != HUE].view(-1, 3).T
    f = parameters.factor.T.gather(0, step)
    weights = torch.stack((f, (1 - f) * (step == CONTRAST), (1 - f) * (step == SATURATION)), dim=1)
    return weights[..., None]


def blend_(pixel: Float[Tensor, "B C P"], weights: Float[Tensor, "3 B 1"]) -> None:
    """own · colour + of_mean · mean grey + of_grey · grey, clamped to [0, 1], in place.

    torchvision's brightness, contrast and saturation are f · colour + (1 − f) · other, where other is black, the
    image's mean grey, or the pixel's grey: one number per pixel, so one pass over the channels suffices.
    """
    own, of_mean, of_grey = weights
    grey = luma(pixel)
    mean = grey.mean(dim=1, keepdim=True)
    other = grey.mul_(of_grey).add_(of_mean * mean)
    torch.addcmul(other[:, None], own[:, :, None], pixel, out=pixel).clamp_(0.0, 1.0)


def turn_hue(pixel: Float[Tensor, "B 3 P"], turn: Float[Tensor, " B"]) -> Float[Tensor, "B 3 P"]:
    """Turn the hue of colours in [0, 1] by a fraction of the circle; greatest and least channel stay.

    Hue is the way round the hexagon red, yellow, green, cyan, blue, magenta (Smith 1978). Its distance from
    red is (high − red + green + blue − 2 low) / chroma in sixths, towards green or towards blue: one
    formula for all sectors. Back again, a channel is low + chroma · ramp, where the ramp, clamped to [0, 1],
    is abs(hue − 3) − 1 for red, 2 − abs(hue − 2) for green and 2 − abs(hue − 4) for blue, in sixths.
    """
    red, green, blue = pixel.unbind(dim=1)
    high, low = pixel.amax(dim=1), pixel.amin(dim=1)
    sixth = (high - low).mul_(6).clamp_(min=1e-12)  # a grey has no hue: any but NaN will do
    hue = (high - red).add_(green).add_(blue).sub_(low, alpha=2)
    hue = hue.div_(sixth).copysign_(green - blue).add_(turn[:, None])
    hue = hue.sub_(hue.floor())
    opposite, side, shift = pixel.new_tensor(((3 / 6, 2 / 6, 4 / 6), (6, -6, -6), (-1, 2, 2)))[:, :, None]
    ramp = (hue[:, None] - opposite).abs_().mul_(side).add_(shift).clamp_(0.0, 1.0)
    return torch.lerp(low[:, None], high[:, None], ramp)
