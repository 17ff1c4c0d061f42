"""An image as a grid of tokens, of which some can be masked."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from simmim_pl.contracts import InputError


class Patches(nn.Conv2d):
    """A token of every patch by one linear layer, that is a convolution whose stride is its kernel.

    Args:
        size: side of a patch, in pixels.
        width: E, the length of a token.
        channels: C, of the images.
    """

    def __init__(self, size: int, width: int, channels: int = 3) -> None:
        super().__init__(channels, width, kernel_size=size, stride=size)
        nn.init.trunc_normal_(self.weight, std=math.sqrt(1 / (channels * size**2)))  # as in torchvision's ViT

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w E"]:
        """Raises :class:`InputError` where patches do not divide the image."""
        size, (height, width) = self.kernel_size[0], image.shape[-2:]
        if height % size or width % size:
            raise InputError(
                f"Images of {height}×{width} pixels cannot be cut into patches of {size}: give images of another size, "
                "with --data.source.size or --data.views.size, or set the encoder's patch_size."
            )
        return super().forward(image).permute(0, 2, 3, 1)


def masked(
    tokens: Float[Tensor, "B h w E"], mask: Bool[Tensor, "B h w"] | None, mask_token: Float[Tensor, " E"] | None
) -> Float[Tensor, "B h w E"]:
    """The tokens, with ``mask_token`` instead of those where the mask is true."""
    if mask is None or mask_token is None:
        return tokens
    return torch.where(mask[..., None], mask_token.to(tokens.dtype), tokens)
