"""Effective rank of embeddings (RankMe) and their singular values, from sums that can be added over ranks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


def rankme(singular: Float[Tensor, " D"]) -> Float[Tensor, ""]:
    r"""Effective rank: the exponential of the entropy of the singular values, from 1 to the smaller of D and N.

    .. math::
        \text{RankMe} = \exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \sigma_k / \lVert \sigma \rVert_1

    Garrido et al. 2023 (arXiv 2210.02885), for embeddings that are not centred. The paper adds 1e-7 to every
    :math:`p_k` to avoid log 0; here 0 log 0 = 0, which is the limit.

    Args:
        singular: singular values ``[D]`` of the matrix of embeddings ``[N, D]``, in any order.

    >>> rankme(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0
    """
    p = singular / singular.sum()
    entropy: Tensor = torch.special.entr(p).sum()
    return entropy.exp()


class EffectiveRank(Metric):
    """Singular values and RankMe of all rows of all updates, on all ranks.

    The state is the sum of the rows ``[D]`` and of their outer products ``[D, D]``, in float64. So memory does not
    depend on the number of rows, and ranks are reduced by addition. Singular values below 1e-8 of the largest are lost
    in rounding.

    Args:
        embed_dim: D, length of an embedding.
        centred: subtract the mean row first. RankMe's paper does not.
    """

    is_differentiable, full_state_update = False, False
    total: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, embed_dim: int, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.add_state("total", torch.zeros(embed_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(embed_dim, embed_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "B D"]) -> None:
        """Add embeddings ``[B, D]``."""
        rows = z.to(self.products.dtype)
        self.total += rows.sum(0)
        self.products += rows.T @ rows
        self.count += len(rows)

    def compute(self) -> dict[str, Tensor]:
        """``singular``, ``[D]`` in descending order, and ``rankme``; NaN if a row was not finite."""
        products, total, count = self.products.cpu(), self.total.cpu(), self.count.cpu()
        if self.centred:
            products = products - total.outer(total) / count
        if not products.isfinite().all():
            return {"singular": torch.full_like(total, torch.nan).float(), "rankme": torch.tensor(torch.nan)}
        # On the CPU: its solver also converges for many equal eigenvalues, as a collapsed network has.
        singular = torch.linalg.eigvalsh(products).clamp(min=0).sqrt().flip(0)
        return {"singular": singular.float(), "rankme": rankme(singular).float()}
