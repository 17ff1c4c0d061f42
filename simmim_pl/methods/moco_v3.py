"""MoCo v3: find the teacher's projection of another view among those of all images of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.methods.self_distillation import SelfDistillation
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import PositiveFloat, Probability, ranged
from simmim_pl.runtime.unit_norm import unit


def key_loss(q: Float[Tensor, "S B P"], k: Float[Tensor, "B P"], temperature: float = 0.2) -> Float[Tensor, ""]:
    """``2τ`` times the cross entropy of finding each query's own key among the keys of all images.

    Chen et al. 2021 (arXiv 2104.02057), ``ctr`` in algorithm 1, whose factor makes the gradient independent of τ to
    first order. Keys come from all ranks, without gradient; memory is linear in queries × keys.

    - ``q``: queries ``[S, B, P]``, from S views of this rank's images, not normalised.
    - ``k``: keys ``[B, P]``, the teacher's projections of one other view of them.

    Raises:
        InputError: there is one image only.

    >>> round(key_loss(torch.eye(2)[None], torch.eye(2), temperature=1.0).item(), 4)   # 2 · (log(e + 1) - 1)
    0.6265
    """
    with torch.autocast(q.device.type, enabled=False):
        keys = distributed.all_gather(unit(k.detach()))
        if len(keys) < 2:
            raise InputError("A batch of one image has no negatives: set batch_size to 2 or more.")
        logits = unit(q).flatten(0, 1) @ keys.T / temperature
        own = distributed.rank() * len(k) + torch.arange(len(k), device=k.device)
        return 2 * temperature * F.cross_entropy(logits, own.repeat(len(q)))


class MoCoV3(SelfDistillation):
    """MoCo v3 (Chen et al. 2021, arXiv 2104.02057): the online network finds its teacher's key of another view.

    The loss is twice the mean of :func:`key_loss` over all ordered pairs of different views, for two views the paper's
    ``ctr(q1, k2) + ctr(q2, k1)``. There is no queue: the keys of a batch are the negatives.

    Args:
        encoder: image → features; the part that is kept.
        head: projection head, built on the encoder's width.
        predictor: MLP from a projection to a projection, for the online network only; ``output_dim`` as of the head.
        temperature: τ > 0 of the softmax over keys.
        momentum: share of itself that the teacher keeps at the first optimizer step; it rises to 1 by a cosine.
        kwargs: see :class:`simmim_pl.methods.self_distillation.SelfDistillation`.
    """

    compares_images = True

    @ranged
    def __init__(
        self,
        encoder: Encoder,
        head: Callable[[int], ProjectionHead],
        predictor: Callable[[int], ProjectionHead],
        temperature: PositiveFloat = 0.2,
        momentum: Probability = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, head, predictor, momentum, **kwargs)
        self.temperature = temperature

    def compare(self, q: Float[Tensor, "S B P"], k: Float[Tensor, "B P"]) -> Float[Tensor, ""]:
        return 2 * key_loss(q, k, self.temperature)

    def at_chance(self, images: int) -> float:
        """All keys are equally likely."""
        return 4 * self.temperature * math.log(images)
