"""Alignment: how close the projections of one image's views are on the unit sphere (Wang & Isola 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.contracts import InputError
from simmim_pl.runtime.unit_norm import unit


def alignment(z: Float[Tensor, "V B P"]) -> Float[Tensor, " B"]:
    r"""Mean squared distance between the normalised projections of each image's views.

    0 if all views agree, 2 in expectation if they are independent.

    .. math::
        \ell_{\text{align}}(i) = \operatorname*{mean}_{v \ne w} \lVert u_{vi} - u_{wi} \rVert^2

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1, with α = 2, for any number of views. For unit vectors the sum
    over pairs is V² minus the squared norm of their sum, which takes time linear in V. A projection of zeros has no
    direction and counts as the centre of the sphere: at squared distance 1 from a unit vector, 0 from another zero.

    Args:
        z: projections ``[V, B, P]`` of V ≥ 2 views, not normalised.

    Returns:
        ``[B]``, one value per image.

    Raises:
        InputError: there is only one view.

    >>> alignment(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
    tensor([2.])
    """
    views = len(z)
    if views < 2:
        raise InputError("Alignment compares views of one image, and there is one only: set views to 2 or more.")
    squared_sum = unit(z).sum(0).square().sum(-1)
    nonzero = (z != 0).any(-1).sum(0)  # for each image the sum of its views' squared norms, without rounding
    return 2 * (views * nonzero - squared_sum) / (views * (views - 1))


class Alignment(Metric):
    """Mean of :func:`alignment` over all images of all updates, on all ranks."""

    higher_is_better, is_differentiable, full_state_update = False, False, False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Add images; ``z`` as for :func:`alignment`."""
        self.total += alignment(z).sum(dtype=self.total.dtype)
        self.count += z.shape[1]

    def compute(self) -> Float[Tensor, ""]:
        """The mean over all images."""
        return (self.total / self.count).float()
