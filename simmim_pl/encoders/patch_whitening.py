"""Frozen patch whitening: a first layer that is fitted to the training images instead of trained."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 5e-4  # added to the variances, as in airbench: directions with almost none are not amplified without bound


class PatchWhitening(nn.Module):
    """Convolution whose filters decorrelate the pixels of a patch; the second half are their negatives.

    ``[B, C, H, W]`` → ``[B, 2·C·k², H, W]``. From Page 2019 ("How to train your ResNet", part 8) and airbench (Jordan
    2024, arXiv 2404.00498), which uses 2×2 pixels. Before :meth:`fit` the filters are the pixels of a patch themselves.
    They are a buffer: no optimizer changes them, and DDP keeps those of all ranks equal.

    Attributes:
        weight: the filters, ``[2·C·k², C, k, k]``.
        fitted: whether they are those of :meth:`fit`.

    Args:
        channels: of the images, C.
        kernel_size: side of a patch, k.
    """

    weight: Tensor
    fitted: Tensor

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size, pixels = kernel_size, channels * kernel_size**2
        self.register_buffer("weight", torch.empty(2 * pixels, channels, kernel_size, kernel_size))
        self.register_buffer("fitted", torch.tensor(False))
        self.set(torch.eye(pixels))

    def set(self, filters: Float[Tensor, "P P"]) -> None:
        """Take these filters, one per row, and their negatives."""
        self.weight.copy_(torch.cat([filters, -filters]).reshape(self.weight.shape))

    def fit(self, images: Float[Tensor, "B C H W"]) -> None:
        """Whiten the patches of normalised images: filter ``i`` is ``v_i / √(λ_i + ε)``, the largest eigenvalue first.

        ``λ_i`` and ``v_i`` are those of the patches' second moments. Outputs of different filters, other than a filter
        and its negative, do not correlate; their second moments are ``λ_i / (λ_i + ε)``, so nearly one.
        """
        patches = F.unfold(images.cpu().double(), self.kernel_size)  # on the CPU: MPS has no float64
        patches = patches.movedim(1, 2).flatten(0, 1)  # [N, C·k²]
        values, vectors = torch.linalg.eigh(patches.mT @ patches / len(patches))
        self.set((vectors / (values + EPS).sqrt()).mT.flip(0).to(self.weight.dtype))
        self.fitted.fill_(True)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        return F.conv2d(image, self.weight, padding=self.kernel_size // 2)
