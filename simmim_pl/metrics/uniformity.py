"""How evenly embeddings cover the sphere (Wang & Isola 2020)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.metrics.rows import Rows
from simmim_pl.records import InputError

BLOCK = 2**22  # pairs in memory at a time


def uniformity(z: Float[Tensor, "N P"], t: float = 2.0) -> Float[Tensor, ""]:
    r"""Logarithm of the mean Gaussian potential of all pairs: 0 when all are equal, about −2t when they spread evenly.

    .. math::
        \ell_{\text{uniform}} = \log \operatorname*{mean}_{i \ne j} e^{-t \lVert u_i - u_j \rVert^2}

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1. In P dimensions independent directions give −2t + 2t²/P and less.
    Memory is linear in the rows: pairs are taken in blocks.

    - ``z``: embeddings ``[N, P]`` of N ≥ 2 images, one view each, not normalised.

    Raises:
        InputError: there is one row only.

    >>> uniformity(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).item()    # two orthogonal vectors: exp(−2 · 2)
    -4.0
    """
    if len(z) < 2:
        raise InputError("Uniformity compares images, and there is one only.")
    unit = F.normalize(z.float(), dim=-1)
    height, parts = max(BLOCK // len(unit), 1), []
    for start in range(0, len(unit), height):
        energy = 2 * t * (unit[start : start + height] @ unit.T - 1)
        energy.diagonal(start).fill_(-torch.inf)  # an image is not its own neighbour
        parts.append(energy.logsumexp((0, 1)))
    return torch.stack(parts).logsumexp(0) - math.log(len(unit) * (len(unit) - 1))


class Uniformity(Rows):
    """:func:`uniformity` of all rows that it was shown, on all ranks.

    Args:
        t: of the potential.
    """

    higher_is_better, is_differentiable, full_state_update = False, False, False

    def __init__(self, t: float = 2.0) -> None:
        super().__init__()
        self.t = t

    def compute(self) -> Float[Tensor, ""]:
        """Of all rows so far."""
        return uniformity(self.gathered(), self.t)
