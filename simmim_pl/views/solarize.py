"""Views whose bright parts are inverted, in a whole batch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simmim_pl.runtime.ranges import Probability, ranged
from simmim_pl.runtime.seeding import uniform
from simmim_pl.views.operation import Operation


class Solarize(Operation):
    """torchvision's ``RandomSolarize`` at a threshold of one half (Grill et al. 2020, arXiv 2006.07733).

    Args:
        probability: that what is brighter than half is inverted.
    """

    @ranged
    def __init__(self, probability: Probability = 0.2) -> None:
        self.probability = probability

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Bool[Tensor, " B"]:
        """Which images."""
        return uniform(generator, batch, along=0).to(device) < self.probability

    def apply(self, view: Float[Tensor, "B 3 S S"], parameters: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 S S"]:
        """Do it to these."""
        return solarize(view, parameters)


def solarize(image: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 H W"]:
    """Invert what is brighter than half in the images in ``mask``, as torchvision's ``solarize`` at 0.5."""
    bright = mask[:, None, None, None] & (image >= 0.5)
    return torch.where(bright, 1 - image, image)
