"""Colour jitter, greyscale and solarising of a whole batch, with factors and an order of each image's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from simmim_pl.seeding import uniform

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue in grey


@dataclass(frozen=True)
class Jitter:
    """What to do to each image. Factors (1, 1, 1, 0) leave an image as it is.

    Attributes:
        factor: brightness, contrast and saturation as multiples, then hue as a fraction of the whole circle.
        order: the four operations in the order in which to do them, as positions in ``factor``.
    """

    factor: Float[Tensor, "B 4"]
    order: Int64[Tensor, "B 4"]

    def __getitem__(self, rows: slice) -> Jitter:
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
    still, reach = draws.new_tensor((1, 1, 1, 0)), draws.new_tensor(strength)
    low = torch.maximum(still - reach, draws.new_tensor((0, 0, 0, -math.inf)))
    factor = low + (still + reach - low) * draws[:, :4]
    chosen = draws[:, 8:] < probability
    return Jitter(torch.where(chosen, factor, still), order=draws[:, 4:8].argsort(dim=1))


def jitter(image: Float[Tensor, "B 3 H W"], parameters: Jitter) -> Float[Tensor, "B 3 H W"]:
    """Change brightness, contrast, saturation and hue of images in [0, 1], each image in its own order.

    The formulas are those of torchvision's ``adjust_*`` on float tensors. Hue is turned only in the images whose order
    has it at this step; the other three are one formula, :func:`blend`, whichever of them it is in each image.
    """
    pixel, turn = image.flatten(2), parameters.factor[:, HUE]
    for step in parameters.order.unbind(dim=1):
        pixel = blend(pixel, step, parameters.factor)
        turned = ((step == HUE) & (turn != 0)).nonzero().squeeze(1)
        pixel[turned] = turn_hue(pixel[turned], turn[turned])
    return pixel.view_as(image)


def blend(
    pixel: Float[Tensor, "B 3 P"], step: Int64[Tensor, " B"], factor: Float[Tensor, "B 4"]
) -> Float[Tensor, "B 3 P"]:
    """f · colour + (1 − f) · other, clamped to [0, 1], with each image's own operation; for hue, nothing.

    The other is black for brightness, the image's mean grey for contrast, the pixel's grey for saturation: all one
    number a pixel, so three channels are passed over once.
    """
    grey = pixel.new_tensor(LUMA) @ pixel
    f = torch.where(step == HUE, 1.0, factor.gather(1, step[:, None]).squeeze(1))
    of_mean = torch.where(step == CONTRAST, (1 - f) * grey.mean(dim=1), 0.0)
    of_pixel = torch.where(step == SATURATION, 1 - f, 0.0)
    other = torch.addcmul(of_mean[:, None], of_pixel[:, None], grey)
    return torch.addcmul(other[:, None], f[:, None, None], pixel).clamp_(0.0, 1.0)


def turn_hue(pixel: Float[Tensor, "B 3 P"], turn: Float[Tensor, " B"]) -> Float[Tensor, "B 3 P"]:
    """Turn the hue of colours in [0, 1] by a fraction of the circle; greatest and least channel stay.

    Hue is the way round the hexagon red, yellow, green, cyan, blue, magenta (Smith 1978), in sixths. Its
    distance from red is (high − red + green + blue − 2 low) / chroma, towards green or towards blue: one
    formula for all sectors. Back again, a channel is low + chroma · ramp, where the ramp, clamped to [0, 1],
    is |hue − 3| − 1 for red, 2 − |hue − 2| for green and 2 − |hue − 4| for blue.
    """
    red, green, blue = pixel.unbind(dim=1)
    high, low = pixel.amax(dim=1), pixel.amin(dim=1)
    chroma = high - low
    hue = (high - red + green + blue).sub_(low, alpha=2)
    hue = hue.div_(chroma.clamp(min=1e-12)).copysign_(green - blue)  # a grey has no hue: any but NaN will do
    hue = hue.add_(6 * turn[:, None]).remainder_(6)
    opposite, side, shift = pixel.new_tensor(((3, 2, 4), (1, -1, -1), (-1, 2, 2)))[:, :, None]
    ramp = (hue[:, None] - opposite).abs_().mul_(side).add_(shift).clamp_(0.0, 1.0)
    return torch.addcmul(low[:, None], chroma[:, None], ramp)


def greyscale(image: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 H W"]:
    """Take the colour out of the images in ``mask``, by torchvision's weights; leave the others."""
    chosen = mask.nonzero().squeeze(1)
    pixel = image.flatten(2)
    grey = pixel.new_tensor(LUMA) @ pixel[chosen]
    return pixel.index_copy(0, chosen, grey[:, None].expand(-1, 3, -1)).view_as(image)


def solarise(image: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 H W"]:
    """Invert what is brighter than half in the images in ``mask``, as torchvision's ``solarize`` at 0.5."""
    bright = mask[:, None, None, None] & (image >= 0.5)
    return torch.where(bright, 1 - image, image)
