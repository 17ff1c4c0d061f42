"""How many directions embeddings use, and how far they spread in each: from sums that ranks can add."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


def rankme(singular: Float[Tensor, " D"]) -> Float[Tensor, ""]:
    r"""Effective rank: the exponential of the entropy of the singular values, from 1 to D.

    .. math::
        \text{RankMe} = \exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \sigma_k / \lVert \sigma \rVert_1

    Garrido et al. 2023 (arXiv 2210.02885), eq. 1, of embeddings that are not centred. The paper adds 1e-7 to every
    share, so that no logarithm of nothing is taken; here nothing counts as nothing, which is the limit.

    - ``singular``: singular values of the matrix of embeddings ``[N, D]``, in any order.

    >>> rankme(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0
    """
    share = singular / singular.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


class Spectrum(Metric):
    """Singular values, RankMe and standard deviations of all rows that it was shown, on all ranks.

    Keeps the sums of the rows and of their products, ``[D]`` and ``[D, D]`` in float64, so memory is independent of the
    number of rows, and ranks add what they have seen. A singular value below 1e-8 of the greatest is lost in rounding.

    Args:
        width: D, length of an embedding.
    """

    is_differentiable, full_state_update = False, False
    total: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "B D"]) -> None:
        """Count some rows."""
        rows = z.to(self.products.dtype)
        self.total += rows.sum(0)
        self.products += rows.T @ rows
        self.count += len(rows)

    def compute(self) -> dict[str, Tensor]:
        """``singular`` values, descending; ``rankme``; ``std`` of every dimension."""
        singular = torch.linalg.eigvalsh(self.products).clamp(min=0).sqrt().flip(0)
        mean = self.total / self.count
        variance = (self.products.diagonal() / self.count - mean.square()).clamp(min=0)
        found = {"singular": singular, "rankme": rankme(singular), "std": variance.sqrt()}
        return {name: value.float() for name, value in found.items()}
