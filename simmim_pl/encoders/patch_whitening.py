"""Frozen patch whitening: a first layer that is fitted to the training images instead of trained."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPS = 5e-4  # added to the variances, as in airbench: directions with almost none are not amplified without bound


class PatchWhitening(nn.Conv2d):
    """Frozen convolution whose filters decorrelate the pixels of a patch; followed by the negative of each filter.

    ``[B, C, H, W]`` → ``[B, 2·C·k², H, W]``. From Page 2019 ("How to train your ResNet", part 8) and airbench (Jordan
    2024, arXiv 2404.00498), which uses 2×2 pixels. Until :meth:`fit`, and in untrained networks, the filters are the
    pixels of a patch themselves.

    Attributes:
        fitted: whether the filters are those of :meth:`fit`; a buffer.

    Args:
        channels: of the images, C.
        kernel_size: side of a patch, k.
    """

    fitted: Tensor

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        pixels = channels * kernel_size**2
        super().__init__(channels, 2 * pixels, kernel_size, padding=kernel_size // 2, bias=False)
        self.requires_grad_(False)
        self.register_buffer("fitted", torch.tensor(False))
        self.set(torch.eye(pixels))

    def set(self, filters: Float[Tensor, "P P"]) -> None:
        """Take these filters, one per row, and their negatives."""
        self.weight.copy_(torch.cat([filters, -filters]).reshape(self.weight.shape))

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "B C H W"]) -> None:
        """Whiten the patches of normalised images: each filter's output has variance one, and no two correlate.

        Filter ``i`` is ``v_i / √(λ_i + ε)``, for the eigenvectors and eigenvalues of the patches' second moments, the
        largest first.
        """
        patches = nn.functional.unfold(images.cpu().double(), self.kernel_size)  # on the CPU: MPS has no float64
        patches = patches.movedim(1, 2).flatten(0, 1)  # [N, C·k²]
        values, vectors = torch.linalg.eigh(patches.mT @ patches / len(patches))
        self.fitted.fill_(True)
        self.set((vectors / (values + EPS).sqrt()).mT.flip(0).to(self.weight.dtype))
