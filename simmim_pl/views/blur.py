"""Gaussian blur of a whole batch, each image by a width of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_size(size: int) -> int:
    """Pixels that a blur reaches over, odd: about a tenth of the image's side, as in SimCLR's code.

    >>> [kernel_size(side) for side in (224, 96, 32, 16)]
    [23, 9, 3, 1]
    """
    return 2 * (size // 10 // 2) + 1


def gaussian_blur(image: Float[Tensor, "B 3 H W"], sigma: Float[Tensor, " B"], kernel: int) -> Float[Tensor, "B 3 H W"]:
    """Blur each image by a Gaussian of ``sigma`` pixels, cut off at ``kernel`` pixels, mirrored at the border.

    A Gaussian is separable, so it is ``rows @ image @ cols.T``, with each image's own weights. Equals torchvision's
    ``gaussian_blur(..., [kernel, kernel], [sigma, sigma])`` on tensors up to rounding.

    Args:
        image: in [0, 1].
        sigma: standard deviation of each image's Gaussian, in pixels, positive.
        kernel: odd, less than twice the image's side.
    """
    batch, channels, height, width = image.shape
    wide = image.flatten(1, 2) @ blurring(sigma, kernel, width).mT
    rows = blurring(sigma, kernel, height)[:, None]
    return rows @ wide.view(batch, channels, height, width)


def blurring(sigma: Float[Tensor, " B"], kernel: int, extent: int) -> Float[Tensor, "B N N"]:
    """Weight of each of N = ``extent`` pixels in each blurred pixel. Rows sum to 1.

    >>> blurring(torch.tensor([0.1]), 3, 2).round(decimals=4)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2
    weight = torch.exp(-0.5 * (offset / sigma[:, None]).square())
    weight = weight / weight.sum(dim=1, keepdim=True)
    pixel = torch.arange(extent, device=sigma.device)
    source = (pixel[:, None] + offset).abs()
    source = torch.where(source < extent, source, 2 * (extent - 1) - source)  # mirrored, the border itself once
    places = source.expand(len(sigma), -1, -1)
    rows = weight.new_zeros(len(sigma), extent, extent)
    return rows.scatter_add_(2, places, weight[:, None].expand(places.shape))
