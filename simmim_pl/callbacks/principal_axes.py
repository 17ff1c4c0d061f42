"""The two principal axes of rows that come in batches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.runtime.unit_norm import unit

ROUNDING = 1e-8  # mean squared distance from the mean, of rows of length one


class PrincipalAxes:
    """Running sums of rows of length one, from which the first two principal axes follow: D² numbers of memory.

    The sums are in float64: rows have length one, so that subtracting the mean at the end loses nothing that float32
    had. Rows that are not finite are left out.

    Args:
        width: D, the length of a row.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total, self.squares = (torch.zeros(*shape, dtype=torch.float64) for shape in ((width,), (width, width)))

    def add(self, features: Float[Tensor, "n D"]) -> None:
        """Count these rows in."""
        rows = unit(features).double()
        rows = rows[rows.isfinite().all(1)]
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += rows.T @ rows

    def fit(self) -> tuple[Float[Tensor, " D"], Float[Tensor, "D 2"], Float[Tensor, " 2"]]:
        """The mean, the axes as columns, and their shares of variance.

        The sign of an axis makes its largest entry positive. Rows that are equal up to rounding have no axes: these are
        zero.
        """
        mean = self.total / max(self.count, 1)
        covariance = self.squares / max(self.count, 1) - mean[:, None] * mean
        if covariance.trace() < ROUNDING:
            return mean, mean.new_zeros(len(mean), 2), mean.new_zeros(2)
        variance, axes = torch.linalg.eigh(covariance)
        axes, variance = (F.pad(found, (0, max(2 - len(mean), 0))) for found in (axes.flip(1), variance.flip(0)))
        axes = axes[:, :2]
        signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        return mean, axes * signs, variance[:2] / covariance.trace()


def places(
    features: Float[Tensor, "n D"], mean: Float[Tensor, " D"], axes: Float[Tensor, "D 2"]
) -> Float[Tensor, "n 2"]:
    """Coordinates of rows on the axes; NaN for a row that is not finite."""
    return ((unit(features).double() - mean) @ axes).float()
