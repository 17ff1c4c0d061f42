"""Contrastive accuracy: how often a view's nearest neighbour is another view of the same image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.metrics.rows import RowsMetric
from simmim_pl.runtime.unit_norm import unit

BLOCK_PAIRS = 2**22  # similarities held in memory at once


def contrastive_accuracy(z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
    """Fraction of views whose nearest other view, among all V·B, is of the same image.

    Chance level: (V − 1) / (V·B − 1). Compares the rows of this process only; the training step uses
    :func:`simmim_pl.losses.nt_xent.contrastive_accuracy` over all ranks.

    Args:
        z: projections ``[V, B, P]``, not normalised; compared by cosine similarity in float32 or better.

    >>> contrastive_accuracy(torch.eye(3).expand(2, 3, 3)).item()
    1.0
    """
    images = z.shape[1]
    with torch.autocast(z.device.type, enabled=False):  # in bfloat16 there are ties, which argmax decides by order
        rows = unit(z).flatten(0, 1)
        nearest, height = [], max(BLOCK_PAIRS // len(rows), 1)
        for start in range(0, len(rows), height):
            similarity = rows[start : start + height] @ rows.T
            similarity.diagonal(start).fill_(-torch.inf)
            nearest.append(similarity.argmax(1))
    image = torch.arange(len(rows), device=z.device) % images
    return (torch.cat(nearest) % images == image).float().mean()


class ContrastiveAccuracy(RowsMetric):
    """:func:`contrastive_accuracy` among all images of all updates, on all ranks. More images make the task harder."""

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Add projections ``[V, B, P]`` of some images."""
        super().update(z.transpose(0, 1))

    def compute(self) -> Float[Tensor, ""]:
        """The accuracy among all images."""
        return contrastive_accuracy(self.gathered().transpose(0, 1))
