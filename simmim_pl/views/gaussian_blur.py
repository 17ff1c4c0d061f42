"""Gaussian blur of a batch, with a separate sigma for each image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from simmim_pl.runtime.ranges import PositiveFloat, Probability, ranged
from simmim_pl.runtime.seeding import uniform
from simmim_pl.views.limits import require_ordered
from simmim_pl.views.operation import Operation


class GaussianBlur(Operation):
    """torchvision's ``GaussianBlur``, applied to each image with a probability.

    Args:
        probability: that a view is blurred; 0.5 in SimCLR at 224 pixels.
        sigma: least and greatest standard deviation of the Gaussian, in pixels; the kernel is about a tenth of the
            view's side, see :func:`kernel_size`.
    """

    @ranged
    def __init__(self, probability: Probability = 0.5, sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)) -> None:
        require_ordered(sigma=sigma)
        self.probability, self.sigma = probability, sigma
        self.smallest = 20 if probability else 1  # below, the kernel is a single pixel

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, " B"]:
        """Widths, 0 for no blur."""
        chosen, place = uniform(generator, 2, batch, along=1).to(device)
        least, greatest = self.sigma
        return torch.where(chosen < self.probability, least + (greatest - least) * place, 0.0)

    def apply(self, view: Float[Tensor, "B C S S"], parameters: Float[Tensor, " B"]) -> Float[Tensor, "B C S S"]:
        """Blur the images whose width is not 0."""
        chosen = parameters.nonzero().squeeze(1)
        view[chosen] = gaussian_blur(view.index_select(0, chosen), parameters[chosen], kernel_size(view.shape[-1]))
        return view


def kernel_size(size: int) -> int:
    """Size of the blur's kernel in pixels, odd: about a tenth of the image's side, as in SimCLR's code.

    >>> [kernel_size(side) for side in (224, 96, 32, 16)]
    [23, 9, 3, 1]
    """
    return 2 * (size // 10 // 2) + 1


def gaussian_blur(image: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], kernel: int) -> Float[Tensor, "B C H W"]:
    """Blur each image by a Gaussian of ``sigma`` pixels, cut off at ``kernel`` pixels, mirrored at the border.

    A Gaussian is separable, and so narrow relative to the image that adding the few shifted images is cheaper than a
    matrix product or a convolution for each image. Equals torchvision's ``gaussian_blur(..., [kernel, kernel],
    [sigma, sigma])`` on tensors up to rounding.

    Args:
        image: in [0, 1].
        sigma: standard deviation of each image's Gaussian, in pixels, positive.
        kernel: odd, less than twice the image's side.
    """
    weight = gaussian(sigma, kernel)
    mirrored = pad(image, [kernel // 2] * 4, mode="reflect")
    return blur_along(3, blur_along(2, mirrored, weight), weight)


def blur_along(dim: int, image: Float[Tensor, "B C h w"], weight: Float[Tensor, "B K"]) -> Float[Tensor, "B C H W"]:
    """Weighted mean of K neighbours along an axis, without padding: the result is K − 1 shorter."""
    kernel, extent = weight.shape[1], image.shape[dim] - weight.shape[1] + 1
    weights = weight[:, :, None, None, None].unbind(dim=1)
    shifted = [image.narrow(dim, shift, extent) for shift in range(kernel)]
    result = shifted[kernel // 2] * weights[kernel // 2]
    for shift in range(kernel // 2):  # left and right weigh the same
        result.add_((shifted[shift] + shifted[-1 - shift]).mul_(weights[shift]))
    return result


def gaussian(sigma: Float[Tensor, " B"], kernel: int) -> Float[Tensor, "B K"]:
    """Weight of each of K = ``kernel`` neighbouring pixels. They sum to 1.

    >>> gaussian(torch.tensor([0.1, 100.0]), 3).round(decimals=4)
    tensor([[0.0000, 1.0000, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2
    weight = torch.exp(-0.5 * (offset / sigma[:, None]).square())
    return weight / weight.sum(dim=1, keepdim=True)
