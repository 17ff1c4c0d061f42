"""The teacher of self-distillation: an exponential moving average of the online network, without gradients."""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.contracts import Encoder
from simmim_pl.encoders.heads import ProjectionHead


class Teacher(nn.Module):
    """A frozen copy of an encoder and its projection head, which follows their parameters as :meth:`update` says.

    It is in train mode when they are, as in the papers' code: BatchNorm normalises by the statistics of the teacher's
    own batch. Its running statistics, which evaluations of the teacher use, come from those batches too; they are not
    averages of the online network's.

    Args:
        encoder: is copied.
        head: is copied.
    """

    def __init__(self, encoder: Encoder, head: ProjectionHead) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy((encoder, head))
        self.requires_grad_(False)

    @torch.no_grad()
    def project(self, views: Float[Tensor, "V B C S S"]) -> tuple[Float[Tensor, "V B D"], Float[Tensor, "V B P"]]:
        """Features and projections of views, without gradient."""
        features = self.encoder(views.flatten(0, 1))
        z = self.head(features.pooled)
        return features.pooled.unflatten(0, views.shape[:2]), z.unflatten(0, views.shape[:2])

    @torch.no_grad()
    def update(self, encoder: Encoder, head: ProjectionHead, momentum: float) -> None:
        """``θ_t ← m · θ_t + (1 - m) · θ`` for every parameter: He et al. 2020 (arXiv 1911.05722), eq. 2."""
        own: list[Tensor] = [*self.parameters()]
        torch._foreach_lerp_(own, [*encoder.parameters(), *head.parameters()], 1 - momentum)


def cosine_momentum(step: int, steps: int, base: float) -> float:
    """The teacher's momentum after an optimizer step: ``1 - (1 - base) · (cos(π · step / steps) + 1) / 2``.

    Grill et al. 2020 (arXiv 2006.07733), section 3.2: the teacher changes more and more slowly, and not at all in the
    end.

    Args:
        step: optimizer step, from 0.
        steps: optimizer steps in all.
        base: momentum at the first step.

    >>> [round(cosine_momentum(step, steps=4, base=0.9), 3) for step in range(5)]
    [0.9, 0.915, 0.95, 0.985, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
