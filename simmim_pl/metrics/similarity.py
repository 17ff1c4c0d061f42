"""Histograms of the cosine similarity of positive and of negative pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.contracts import InputError
from simmim_pl.runtime.unit_norm import unit


def histogram(similarity: Float[Tensor, "*shape"], bins: int) -> Int64[Tensor, " bins"]:
    """Histogram of cosine similarities over [−1, 1]. The last bin includes 1; NaN is not counted.

    Args:
        similarity: any shape.
        bins: number of equal bins.

    >>> histogram(torch.tensor([-1.0, -0.1, 0.9, 1.0]), bins=4)
    tensor([1, 1, 0, 2])
    """
    edges = torch.linspace(-1, 1, bins + 1, device=similarity.device)[1:-1]
    place = torch.bucketize(similarity[~similarity.isnan()], edges, right=True)
    return place.bincount(minlength=bins)


class Similarities(Metric):
    """:func:`histogram` of positive and of negative pairs of all updates, on all ranks.

    A positive pair is two views of one image; a negative pair is views of two images of the same update.

    Args:
        bins: number of equal bins of [−1, 1].
    """

    is_differentiable, full_state_update = False, False
    positive: Tensor
    negative: Tensor

    def __init__(self, bins: int = 50) -> None:
        super().__init__()
        if bins < 1:
            raise InputError(f"A histogram needs bins of 1 or more, and has {bins}.")
        self.bins = bins
        for name in ("positive", "negative"):
            self.add_state(name, torch.zeros(bins, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Add the pairs of projections ``[V, B, P]``."""
        rows = unit(z)
        for v in range(len(rows)):
            for w in range(v + 1, len(rows)):
                similarity = rows[v] @ rows[w].T
                pairs = torch.eye(len(similarity), dtype=torch.bool, device=z.device)
                self.positive += histogram(similarity[pairs], self.bins)
                self.negative += histogram(similarity[~pairs], self.bins)

    def compute(self) -> dict[str, Tensor]:
        """Counts ``[bins]`` of ``positive`` and ``negative`` pairs."""
        return {"positive": self.positive, "negative": self.negative}
