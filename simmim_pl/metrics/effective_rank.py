"""How many directions embeddings use: singular values and effective rank, from sums that ranks can add."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


def rankme(singular: Float[Tensor, " D"]) -> Float[Tensor, ""]:
    r"""Effective rank: the exponential of the entropy of the singular values, from 1 to the smaller of D and N.

    .. math::
        \text{RankMe} = \exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \sigma_k / \lVert \sigma \rVert_1

    Garrido et al. 2023 (arXiv 2210.02885), of embeddings that are not centred. The paper adds 1e-7 to every
    share, so that no logarithm of nothing is taken; here nothing counts as nothing, which is the limit.

    - ``singular``: singular values of the matrix of embeddings ``[N, D]``, in any order.

    >>> rankme(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0
    """
    share = singular / singular.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


class EffectiveRank(Metric):
    """Singular values and RankMe of all rows that it was shown, on all ranks.

    Keeps the sums of the rows and of their products, ``[D]`` and ``[D, D]`` in float64, so memory is independent of the
    number of rows, and ranks add what they have seen. A singular value below 1e-8 of the greatest is lost in rounding.

    Args:
        width: D, length of an embedding.
        centred: take the mean from the rows first. RankMe's paper does not.
    """

    is_differentiable, full_state_update = False, False
    total: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, width: int, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
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
        """``singular`` values, descending, and ``rankme``; NaN when a row was not finite."""
        products, total, count = self.products.cpu(), self.total.cpu(), self.count.cpu()
        if self.centred:
            products = products - total.outer(total) / count
        if not products.isfinite().all():
            return {"singular": torch.full_like(total, torch.nan).float(), "rankme": torch.tensor(torch.nan)}
        # On the CPU, whose solver does not give up on many equal values, as those of a collapsed network are.
        singular = torch.linalg.eigvalsh(products).clamp(min=0).sqrt().flip(0)
        return {"singular": singular.float(), "rankme": rankme(singular).float()}
