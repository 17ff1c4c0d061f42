"""Solarise a batch: invert the bright parts of some images."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simmim_pl.views.operation import RandomOperation


class Solarize(RandomOperation):
    """torchvision's ``RandomSolarize`` at a threshold of one half (Grill et al. 2020, arXiv 2006.07733)."""

    def apply(self, view: Float[Tensor, "B C S S"], parameters: Bool[Tensor, " B"]) -> Float[Tensor, "B C S S"]:
        """Apply it to the chosen images."""
        return solarize(view, parameters)


def solarize(image: Float[Tensor, "B C H W"], mask: Bool[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
    """Invert what is brighter than half in the images in ``mask``, as torchvision's ``solarize`` at 0.5."""
    bright = mask[:, None, None, None] & (image >= 0.5)
    return torch.where(bright, 1 - image, image)
