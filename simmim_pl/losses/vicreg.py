"""VICReg: views agree, every coordinate varies, and no two coordinates say the same."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.losses.loss import Loss, require_views, whole_batch
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, ranged

EPSILON = 1e-4  # added to a variance, so that its root has a gradient at 0; as in the paper


def vicreg(
    z: Float[Tensor, "V B P"], invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Float[Tensor, ""]:
    r"""Pull the views of an image together; decorrelate coordinates, and keep each standard deviation at 1 or more.

    With :math:`\sigma_{vp}` the standard deviation over the batch of coordinate :math:`p` in view :math:`v`,
    :math:`C^v` the covariance of its coordinates, and means over what is not written below them:

    .. math::
        \ell = \lambda \operatorname*{mean}_{v < w} (z_v - z_w)^2
               + \mu \operatorname*{mean}_{v, p} \max(0, 1 - \sigma_{vp})
               + \nu \, 2 \operatorname*{mean}_{v} \frac{1}{P} \sum_{p \ne q} (C^v_{pq})^2

    - ``z``: projections ``[V, B, P]`` of V ≥ 2 views; ``z[v, i]`` and ``z[w, i]`` show the same image.
    - ``invariance``, ``variance``, ``covariance``: λ, μ and ν.
    - Result: scalar, on every rank that of the whole batch.
    - For V = 2 these are equations 1 to 6 of Bardes et al. 2022 (arXiv 2105.04906), with means as in the authors' code:
      over the coordinates of a distance, and of the two views' variance terms. For V > 2 it is the mean over all pairs
      of views of the loss of a pair.
    - Statistics are over the images of all ranks, with gradient, in float32 at least, whatever autocast says.

    Raises:
        InputError: there is one view only, or one image only.
    """
    require_views(z)
    with torch.autocast(z.device.type, enabled=False):
        z = whole_batch(z)
        _, images, width = z.shape
        distance = 2 * z.var(0).mean()  # of numbers, the mean squared difference of a pair is twice the variance
        z = z - z.mean(1, keepdim=True)
        variances = z.square().sum(1) / (images - 1)
        hinge = (1 - (variances + EPSILON).sqrt()).relu()
        products = z @ z.mT if images < width else z.mT @ z  # of the two the smaller: their squares have the same sum
        squares = products.square().sum((1, 2)) / (images - 1) ** 2 - variances.square().sum(1)
        return invariance * distance + variance * hinge.mean() + covariance * 2 * squares.mean() / width


class VICReg(Loss):
    """VICReg with its weights, see :func:`vicreg`.

    Args:
        invariance: weight of the squared distance of an image's views.
        variance: weight of the hinge that keeps each coordinate's standard deviation at 1 or more.
        covariance: weight of the squared covariances of two coordinates.
    """

    @ranged
    def __init__(
        self,
        invariance: PositiveFloat = 25.0,
        variance: NonNegativeFloat = 25.0,
        covariance: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        return vicreg(z, self.invariance, self.variance, self.covariance)

    def at_chance(self, views: int, images: int, width: int) -> float:
        """The loss of noise with the best variance, given the distance of its views; collapse has a higher loss."""
        std = min(self.variance / (4 * self.invariance), 1.0)
        return 2 * self.invariance * std**2 + self.variance * (1 - std)
