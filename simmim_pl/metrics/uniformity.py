"""How evenly embeddings cover the sphere (Wang & Isola 2020)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.metrics.rows import Rows
from simmim_pl.runtime.unit_norm import unit

BLOCK = 2**22  # pairs in memory at a time


def uniformity(z: Float[Tensor, "N P"], t: float = 2.0) -> Float[Tensor, ""]:
    r"""Logarithm of the mean Gaussian potential of all pairs: 0 when all are equal, about −2t when they spread evenly.

    .. math::
        \ell_{\text{uniform}} = \log \operatorname*{mean}_{i \ne j} e^{-t \lVert u_i - u_j \rVert^2}

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1. In P dimensions independent directions give −2t + 2t²/P and less.
    A row of zeros has no direction and counts as the middle of the sphere: its squared distance is 1 to a direction, 0
    to another row of zeros, so rows that have all shrunk to nothing are as uneven as can be. Memory is linear in the
    rows: pairs are taken in blocks.

    - ``z``: embeddings ``[N, P]`` of N ≥ 2 images, one view each, not normalised.

    Raises:
        InputError: there is one row only, or t is no positive number.

    >>> uniformity(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).item()    # two orthogonal vectors: exp(−2 · 2)
    -4.0
    """
    if len(z) < 2:
        raise InputError("Uniformity compares images, and there is one only.")
    if not 0 < t < math.inf:
        raise InputError(f"Uniformity's t must be a positive number, got {t}.")
    rows = unit(z)
    square = (z != 0).any(-1).to(rows.dtype)  # of a row's length: 1, or 0 of zeros
    height, parts = max(BLOCK // len(rows), 1), []
    for start in range(0, len(rows), height):
        some = slice(start, start + height)
        energy = t * (2 * rows[some] @ rows.T - square[some, None] - square)
        energy.diagonal(start).fill_(-torch.inf)  # an image is not its own neighbour
        parts.append(energy.logsumexp((0, 1)))
    return torch.stack(parts).logsumexp(0) - math.log(len(rows) * (len(rows) - 1))


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
