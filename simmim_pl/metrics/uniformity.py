"""Uniformity: how evenly embeddings cover the unit sphere (Wang & Isola 2020)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.metrics.rows import RowsMetric
from simmim_pl.runtime.unit_norm import unit

BLOCK_PAIRS = 2**22  # pairs held in memory at once


def uniformity(z: Float[Tensor, "N P"], t: float = 2.0) -> Float[Tensor, ""]:
    r"""Logarithm of the mean Gaussian potential over all pairs: 0 if all rows are equal, about −2t if evenly spread.

    .. math::
        \ell_{\text{uniform}} = \log \operatorname*{mean}_{i \ne j} e^{-t \lVert u_i - u_j \rVert^2}

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1. In P dimensions independent directions give −2t + 2t²/P or less.
    A row of zeros has no direction and counts as the centre of the sphere: at squared distance 1 from a unit vector, 0
    from another zero. So rows that have all collapsed to zero get the worst value. Pairs are computed in blocks, so
    memory is linear in N.

    Args:
        z: embeddings ``[N, P]`` of N ≥ 2 images, one view each, not normalised.
        t: of the Gaussian potential, positive.

    Raises:
        InputError: there is only one row, or t is not a positive number.

    >>> uniformity(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).item()    # two orthogonal vectors: exp(−2 · 2)
    -4.0
    """
    if len(z) < 2:
        raise InputError("Uniformity compares images, and there is one only.")
    if not 0 < t < math.inf:
        raise InputError(f"Uniformity's t must be a positive number, got {t}.")
    rows = unit(z)
    squared_norm = (z != 0).any(-1).to(rows.dtype)  # 1, or 0 for a row of zeros
    height, parts = max(BLOCK_PAIRS // len(rows), 1), []
    for start in range(0, len(rows), height):
        block = slice(start, start + height)
        energy = t * (2 * rows[block] @ rows.T - squared_norm[block, None] - squared_norm)
        energy.diagonal(start).fill_(-torch.inf)  # an image is not its own neighbour
        parts.append(energy.logsumexp((0, 1)))
    return torch.stack(parts).logsumexp(0) - math.log(len(rows) * (len(rows) - 1))


class Uniformity(RowsMetric):
    """:func:`uniformity` of all rows of all updates, on all ranks.

    Args:
        t: of the Gaussian potential.
    """

    higher_is_better, is_differentiable, full_state_update = False, False, False

    def __init__(self, t: float = 2.0) -> None:
        super().__init__()
        self.t = t

    def compute(self) -> Float[Tensor, ""]:
        """Uniformity of all rows."""
        return uniformity(self.gathered(), self.t)
