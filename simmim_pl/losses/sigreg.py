"""SIGReg, the loss of LeJEPA: views agree, and along any direction the batch looks like a standard Gaussian."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.losses.loss import Loss, full_precision, require_views
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import PositiveInt, Probability, ranged

T_MAX, POINTS = 3.0, 17  # of the integral over [0, T_MAX], doubled: as in the authors' code


def epps_pulley(x: Float[Tensor, "*shape B K"]) -> Float[Tensor, "*shape K"]:
    r"""Epps & Pulley's statistic of each column: how far a sample is from a standard normal distribution.

    .. math::
        N \int_{-3}^{3} \Big| \frac{1}{N} \sum_{n} e^{i t x_n} - e^{-t^2/2} \Big|^2 e^{-t^2/2} \, dt

    - ``x``: B of the N numbers of each sample; the other ranks have the rest.
    - Result: on every rank that of the whole samples, with gradient. Its expectation for N normal numbers is about 1,
      whatever N; of N equal numbers it grows with N.
    - The integral is a trapezoidal sum, Epps & Pulley 1983 (doi 10.1093/biomet/70.3.723).
    """
    t = torch.linspace(0, T_MAX, POINTS, dtype=x.dtype, device=x.device)
    normal = (-t.square() / 2).exp()
    angle = x[..., None] * t  # [..., B, K, T]
    parts = torch.stack([angle.cos().mean(-3), angle.sin().mean(-3)])
    real, imaginary = distributed.all_gather(parts[None]).mean(0)
    distance = (real - normal).square() + imaginary.square()
    return 2 * torch.trapezoid(distance * normal, t) * x.shape[-2] * distributed.world_size()


def sigreg(
    z: Float[Tensor, "V B P"],
    directions: Float[Tensor, "P K"],
    weight: float = 0.02,
    global_views: int | None = None,
) -> Float[Tensor, ""]:
    r"""Pull the views of an image to their mean; keep the projection of every view on each direction normal.

    With :math:`\mu` the mean of an image's first :math:`G` views, :math:`a_k` the directions, :math:`T` the statistic
    of :func:`epps_pulley`, and means over what is not written below them:

    .. math::
        \ell = (1 - \lambda) \operatorname*{mean}_{v} (z_v - \mu)^2 + \lambda \operatorname*{mean}_{v, k} T(z_v a_k)

    - ``z``: projections ``[V, B, P]`` of V ≥ 2 views; ``z[v, i]`` and ``z[w, i]`` show the same image.
    - ``directions``: K unit vectors, the same on every rank.
    - ``weight``: λ. The statistic has the factor N, the images of all ranks, so it has more weight in a larger batch.
    - ``global_views``: G; all views by default. Further ones, such as ``--data.local_views``, follow the mean.
    - Result: scalar; the ranks' mean is the loss of the whole batch.
    - Balestriero & LeCun 2025 (arXiv 2511.08544), with the integral of the authors' code. Arithmetic is float32 at
      least, whatever autocast says.

    Raises:
        InputError: there is one view only, one image only, or fewer views than ``global_views``.
    """
    require_views(z)
    if (global_views or 0) > len(z):
        raise InputError(f"global_views is {global_views}, and there are {len(z)} views of an image: set it to fewer.")
    with torch.autocast(z.device.type, enabled=False):
        z = full_precision(z)
        invariance = (z - z[:global_views].mean(0)).square().mean()
        return (1 - weight) * invariance + weight * epps_pulley(z @ directions).mean()


class SIGReg(Loss):
    """SIGReg along new random directions at every step, see :func:`sigreg`.

    Args:
        weight: λ in [0, 1], the weight of the statistic; that of the views' distance is 1 − λ.
        slices: K, number of directions.
        global_views: number of views, the first ones, whose mean all views are pulled to; all by default.
    """

    draws = True

    @ranged
    def __init__(
        self, weight: Probability = 0.02, slices: PositiveInt = 256, global_views: PositiveInt | None = None
    ) -> None:
        super().__init__()
        self.weight, self.slices, self.global_views = weight, slices, global_views

    def forward(self, z: Float[Tensor, "V B P"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        z = full_precision(z)
        drawn = torch.randn(z.shape[-1], self.slices, generator=generator, dtype=z.dtype, device=z.device)
        return sigreg(z, drawn / drawn.norm(dim=0), self.weight, self.global_views)

    def at_chance(self, views: int, images: int, width: int) -> float:
        """The expected loss of Gaussian noise of the best standard deviation; collapse (deviation 0) costs more."""
        return least_of_noise(self.weight, views, self.global_views or views, images)


@lru_cache(maxsize=16)
def least_of_noise(weight: float, views: int, global_views: int, images: int) -> float:
    """The least expected :func:`sigreg` of projections that are Gaussian, alike in all coordinates, and independent.

    With their variance, the views' distance from the mean of the global views grows, and the statistic falls.
    """
    t, variance = np.linspace(0, T_MAX, POINTS), np.linspace(0, 1, 201)[:, None]
    normal, noise = np.exp(-(t**2) / 2), np.exp(-variance * t**2 / 2)
    density = (images * (noise - normal) ** 2 + 1 - noise**2) * normal
    statistic = (density[:, 1:] + density[:, :-1]).sum(1) * t[1]  # trapezoids, doubled
    distance = variance[:, 0] * (1 - 2 / views + 1 / global_views)
    return float(((1 - weight) * distance + weight * statistic).min())
