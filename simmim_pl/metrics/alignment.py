"""How near the views of one image are to each other on the sphere (Wang & Isola 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.contracts import InputError
from simmim_pl.runtime.unit_norm import unit


def alignment(z: Float[Tensor, "V B P"]) -> Float[Tensor, " B"]:
    r"""Mean squared distance between the normalised views of each image: 0 when all agree, 2 when they are independent.

    .. math::
        \ell_{\text{align}}(i) = \operatorname*{mean}_{v \ne w} \lVert u_{vi} - u_{wi} \rVert^2

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1, with α = 2, for any number of views. Unit vectors make it
    linear in the views: V² minus the squared length of their sum. A view of zeros has no direction and counts as the
    middle of the sphere: its squared distance is 1 to a direction, 0 to another view of zeros.

    - ``z``: projections ``[V, B, P]`` of V ≥ 2 views, not normalised.

    Raises:
        InputError: there is one view only.

    >>> alignment(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
    tensor([2.])
    """
    views = len(z)
    if views < 2:
        raise InputError("Alignment compares views of one image, and there is one only: set views to 2 or more.")
    together = unit(z).sum(0).square().sum(-1)
    directions = (z != 0).any(-1).sum(0)  # of each image: the squared lengths of its views, without their rounding
    return 2 * (views * directions - together) / (views * (views - 1))


class Alignment(Metric):
    """:func:`alignment`, the mean over all images that it was shown, on all ranks."""

    higher_is_better, is_differentiable, full_state_update = False, False, False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Count the views of some images."""
        self.total += alignment(z).sum(dtype=self.total.dtype)
        self.count += z.shape[1]

    def compute(self) -> Float[Tensor, ""]:
        """The mean so far."""
        return (self.total / self.count).float()
