"""Standard deviation of normalised embeddings in each dimension, which goes to zero when they collapse."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.runtime.unit_norm import unit


def embedding_std(z: Float[Tensor, "N P"]) -> Float[Tensor, " P"]:
    """Standard deviation of each coordinate of the L2-normalised rows, times √P.

    About 1 in every dimension if the rows cover the sphere evenly; 0 in a dimension in which all rows agree. Chen & He
    2021 (arXiv 2011.10566), section 4.1.

    Args:
        z: embeddings ``[N, P]``, not normalised.

    >>> embedding_std(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    tensor([1.4142, 0.0000])
    """
    std: Tensor = unit(z).std(0, correction=0)
    return std.mul(z.shape[1] ** 0.5)


class EmbeddingStd(Metric):
    """:func:`embedding_std` of all rows of all updates, on all ranks, from sums in float64.

    Args:
        embed_dim: P, length of an embedding.
    """

    higher_is_better, is_differentiable, full_state_update = True, False, False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(embed_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "B P"]) -> None:
        """Add embeddings ``[B, P]``."""
        rows = unit(z).to(self.total.dtype)
        self.total += rows.sum(0)
        self.squares += rows.square().sum(0)
        self.count += len(rows)

    def compute(self) -> Float[Tensor, " P"]:
        """``[P]``, of all rows."""
        variance = self.squares / self.count - (self.total / self.count).square()
        std: Tensor = variance.clamp(min=0).sqrt().float()
        return std.mul(len(std) ** 0.5)
