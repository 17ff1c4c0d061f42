"""Views without colour, in a whole batch."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from simmim_pl.views.operation import RandomOperation

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue in grey


class Grayscale(RandomOperation):
    """torchvision's ``RandomGrayscale``."""

    def apply(self, view: Float[Tensor, "B 3 S S"], parameters: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 S S"]:
        """Apply it to the chosen images."""
        return grayscale(view, parameters)


def grayscale(image: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, " B"]) -> Float[Tensor, "B 3 H W"]:
    """Take the colour out of the images in ``mask``, by torchvision's weights; leave the others."""
    chosen = mask.nonzero().squeeze(1)
    pixel = image.flatten(2)
    grey = luma(pixel.index_select(0, chosen))
    return pixel.index_copy(0, chosen, grey[:, None].expand(-1, 3, -1)).view_as(image)


def luma(pixel: Float[Tensor, "B C P"]) -> Float[Tensor, "B P"]:
    """The grey of each pixel: by torchvision's weights of RGB, else the mean of its channels.

    A matrix product would round one image alone differently.
    """
    if pixel.shape[1] != len(LUMA):
        return pixel.mean(dim=1)
    red, green, blue = pixel.unbind(dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
