"""Barlow Twins: of two views the same coordinates correlate, and different ones do not."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.losses.loss import Loss, require_views, whole_batch
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, ranged

EPSILON = 1e-5  # added to a variance: that of BatchNorm, by which the authors' code standardises


def barlow_twins(z: Float[Tensor, "V B P"], redundancy: float = 5e-3, scale: float = 1.0) -> Float[Tensor, ""]:
    r"""Make the correlation of two views' coordinates the identity.

    With :math:`C` the correlation over the batch of the coordinates of one view with those of another, s the scale and
    λ the weight of the redundancy:

    .. math::
        \ell = s \operatorname*{mean}_{v < w} \Big[ \sum_p (1 - C^{vw}_{pp})^2
               + \lambda \sum_{p \ne q} (C^{vw}_{pq})^2 \Big]

    - ``z``: projections ``[V, B, P]`` of V ≥ 2 views; ``z[v, i]`` and ``z[w, i]`` show the same image.
    - Result: scalar, on every rank that of the whole batch. It is a sum over coordinates: P where nothing correlates.
    - For V = 2 this is equation 1 of Zbontar et al. 2021 (arXiv 2103.03230); for V > 2 the mean over all pairs.
    - Statistics are over the images of all ranks, with gradient, in float32 at least, whatever autocast says.

    Raises:
        InputError: there is one view only, or one image only.
    """
    require_views(z)
    with torch.autocast(z.device.type, enabled=False):
        z = whole_batch(z)
        z = z - z.mean(1, keepdim=True)
        z = z / (z.square().mean(1, keepdim=True) + EPSILON).sqrt()
        pairs = [pair(one, other, redundancy) for one, other in combinations(z, 2)]
        return scale * torch.stack(pairs).mean()


def pair(one: Float[Tensor, "N P"], other: Float[Tensor, "N P"], redundancy: float) -> Float[Tensor, ""]:
    """The loss of two views, standardised over the batch."""
    correlation = one.T @ other / len(one)
    same = correlation.diagonal()
    others = correlation.square().sum() - same.square().sum()
    return (1 - same).square().sum() + redundancy * others


class BarlowTwins(Loss):
    """Barlow Twins with its weights, see :func:`barlow_twins`.

    Args:
        redundancy: λ, weight of the squared correlations of two different coordinates.
        scale: factor on the whole loss, to which SGD's learning rate has to be tuned; 0.1 in solo-learn's CIFAR recipe.
    """

    @ranged
    def __init__(self, redundancy: NonNegativeFloat = 5e-3, scale: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.redundancy, self.scale = redundancy, scale

    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        return barlow_twins(z, self.redundancy, self.scale)

    def at_chance(self, views: int, images: int, width: int) -> float:
        """The loss of projections that are all the same, none of whose coordinates correlates; noise costs more."""
        return self.scale * width
