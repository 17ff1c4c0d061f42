"""How often a view's most similar view is one of its own image: the contrastive task's top-1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.metrics.rows import Rows
from simmim_pl.runtime.unit_norm import unit

BLOCK = 2**22  # similarities in memory at a time


def contrastive_accuracy(z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
    """Share of views whose nearest other view, of all V·B, is of the same image; chance is (V − 1) / (V·B − 1).

    Of what one process holds. The training step's own, of the batch over all ranks, is
    :func:`simmim_pl.losses.nt_xent.contrastive_accuracy`.

    - ``z``: projections, not normalised; compared by cosine similarity in float32 or better.

    >>> contrastive_accuracy(torch.eye(3).expand(2, 3, 3)).item()
    1.0
    """
    images = z.shape[1]
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 similarities tie, and the first of equals would win
        rows = unit(z).flatten(0, 1)
        nearest, height = [], max(BLOCK // len(rows), 1)
        for start in range(0, len(rows), height):
            similarity = rows[start : start + height] @ rows.T
            similarity.diagonal(start).fill_(-torch.inf)
            nearest.append(similarity.argmax(1))
    image = torch.arange(len(rows), device=z.device) % images
    return (torch.cat(nearest) % images == image).float().mean()


class ContrastiveAccuracy(Rows):
    """:func:`contrastive_accuracy` among all images that it was shown, on all ranks: the more, the harder."""

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Keep the projections of some images."""
        super().update(z.transpose(0, 1))

    def compute(self) -> Float[Tensor, ""]:
        """The share among all that was kept."""
        return contrastive_accuracy(self.gathered().transpose(0, 1))
