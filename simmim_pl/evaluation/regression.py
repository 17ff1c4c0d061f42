"""Multinomial logistic regression on fixed features, with a bound on the distance to its minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

Weights = tuple[Float[Tensor, "D C"], Float[Tensor, " C"]]

BLOCK = 2**18  # features in float64 at a time: 2 MB, which stay in a CPU's cache; 64 times that on a GPU
ROUGHLY = 0.1  # conjugate gradients stop at this fraction of the initial residual
LONGEST = 1000  # most products with the Hessian per Newton step


@dataclass(frozen=True)
class Point:
    """A point ``W, b`` (one row per class: its weights, then its bias), with the objective there.

    Attributes:
        at: ``[C, D + 1]``, in float64.
        value: nats.
        gradient: ``[C, D + 1]``, in float64.
        probability: of each class for each image, ``[C, N]``, in the features' type.
        above: nats, see :meth:`LogisticRegression.fit`.
    """

    at: Tensor
    value: float
    gradient: Tensor
    probability: Tensor
    above: float


class LogisticRegression:
    """Minimises ``mean cross entropy + l2 / 2 · |W|²`` over ``W [D, C]`` and ``b [C]`` with truncated Newton steps.

    Equals scikit-learn's ``LogisticRegression(C=1 / (l2 · N))``; the bias is not penalised in either. Two classes are
    no exception here; scikit-learn gives them one weight vector, so there ``C=2 / (l2 · N)``.

    Objective and gradient are float64, whatever the features are. A step need not be exact: conjugate gradients
    (Nocedal & Wright 2006, algorithm 7.1) find it in the features' own type. Their preconditioner inverts what the
    Hessian would be if every image had the mean curvature of all: the classes' times the features' second moment.

    Args:
        features: ``[N, D]``; best standardised.
        labels: ``[N]``, in 0 … C − 1.
        classes: C.
    """

    def __init__(self, features: Float[Tensor, "N D"], labels: Int64[Tensor, " N"], classes: int) -> None:
        self.device = features.device
        if self.device.type == "mps":  # which has no float64
            features, labels = features.cpu(), labels.cpu()
        self.features, self.labels, self.classes = features, labels, classes
        self.axes, self.moment = principal_axes(features)

    @torch.no_grad()
    def fit(self, l2: float, start: Weights | None = None, iterations: int = 100, tolerance: float = 1e-7) -> Weights:
        """Weights near the minimum, in the features' type.

        Stops when ``|∂W|² / (2 · l2)`` and ``Σ|∂b|`` are at most ``tolerance`` each. The objective is strongly convex
        in W and convex in b, so it is then at most ``tolerance · (1 + max|b − b*|)`` above its minimum, which has the
        biases b*. This bound is exact up to float64 rounding, before the weights are rounded to the features' type. If
        ``iterations`` Newton steps do not suffice, a warning gives the remaining bound.

        - ``start``: weights to start from, so that a sweep over ``l2`` takes few steps each.
        - ``tolerance``: nats.
        """
        width = self.features.shape[1]
        at = self.features.new_zeros(self.classes, width + 1, dtype=torch.float64)
        if start is not None:
            # At the minimum, weights orthogonal to all features are zero, and so is the sum of weights over classes.
            weight, bias = (part.to(self.features.device) for part in start)
            at[:, :-1], at[:, -1] = weight.T @ self.axes @ self.axes.T, bias
            at -= at.mean(0)
        point = self.evaluate(at, l2)
        for _ in range(iterations):
            if point.above <= tolerance:
                break
            before, point = point, self.search(point, self.step(point, l2), l2)
            if point is before:
                break
        if point.above > tolerance:
            rank_zero_warn(
                f"Logistic regression with l2 {l2:g} stopped up to {point.above:.1e} nats above its minimum, and the "
                f"tolerance is {tolerance:.1e}: raise iterations from {iterations}, or standardise the features."
            )
        found = point.at.to(self.features.dtype).to(self.device)
        return found[:, :-1].T.contiguous(), found[:, -1].clone()

    def evaluate(self, at: Tensor, l2: float) -> Point:
        """The objective, some images at a time: there is never a copy of all features in float64."""
        number, width = self.features.shape
        total, slope = at.new_zeros(()), torch.zeros_like(at)
        probability = self.features.new_empty(self.classes, number)
        height = max((BLOCK if at.device.type == "cpu" else 64 * BLOCK) // width, 1)
        for start in range(0, number, height):
            rows = slice(start, start + height)
            part, own = self.features[rows].double(), self.labels[None, rows]
            logarithm = torch.addmm(at[:, -1:], at[:, :-1], part.T).log_softmax(0)
            total -= logarithm.gather(0, own).sum()
            excess = logarithm.exp_()
            probability[:, rows] = excess
            excess.scatter_add_(0, own, -torch.ones_like(excess[:1]))
            slope[:, :-1] += excess @ part
            slope[:, -1] += excess.sum(1)
        gradient, weight = slope / number, at[:, :-1]
        gradient[:, :-1] += l2 * weight
        value = total.item() / number + l2 / 2 * weight.square().sum().item()
        above = max(gradient[:, :-1].square().sum().item() / (2 * l2), gradient[:, -1].abs().sum().item())
        return Point(at, value, gradient, probability, above)

    def step(self, point: Point, l2: float) -> Tensor:
        """Minus the inverse Hessian times the gradient, roughly: preconditioned conjugate gradients."""
        rest = -point.gradient.to(self.features.dtype)
        invert = self.preconditioner(point, l2)
        found, towards = torch.zeros_like(rest), invert(rest)
        size = first = (rest * towards).sum()
        for _ in range(LONGEST):
            curved = self.curvature(point, towards, l2)
            along = (towards * curved).sum()
            if not along > 0:  # rounding
                break
            found += size / along * towards
            rest -= size / along * curved
            solved = invert(rest)
            size, before = (rest * solved).sum(), size
            if size <= ROUGHLY**2 * first:
                break
            towards = solved + size / before * towards
        return found.double()

    def curvature(self, point: Point, towards: Tensor, l2: float) -> Tensor:
        """The Hessian times a direction."""
        change = torch.addmm(towards[:, -1:], towards[:, :-1], self.features.T).mul_(point.probability)
        change -= point.probability * change.sum(0)
        change /= len(self.features)
        return torch.cat([change @ self.features + l2 * towards[:, :-1], change.sum(1, keepdim=True)], 1)

    def preconditioner(self, point: Point, l2: float) -> Callable[[Tensor], Tensor]:
        """The inverse of the Hessian that images of the same, mean curvature would have."""
        chance = point.probability
        mean = torch.diag(chance.mean(1)) - chance @ chance.T / chance.shape[1]
        # Adding a constant to all classes has no curvature, and no step goes that way: any positive value works here.
        curvature, turn = torch.linalg.eigh(mean + 1 / self.classes)
        curvature = curvature.clamp(min=torch.finfo(mean.dtype).eps)[:, None]
        weights = curvature * self.moment + l2

        def invert(rest: Tensor) -> Tensor:
            turned = turn.T @ rest
            by_axis = (turned[:, :-1] @ self.axes) / weights
            solved: Tensor = turn @ torch.cat([by_axis @ self.axes.T, turned[:, -1:] / curvature], 1)
            return solved

        return invert

    def search(self, point: Point, step: Tensor, l2: float) -> Point:
        """Go along a step, half as far each time until the objective falls enough (Armijo); stay when it never does."""
        fall, rounding = (point.gradient * step).sum().item(), 1e-14 * (1 + abs(point.value))
        for halvings in range(30):
            share = 0.5**halvings
            reached = self.evaluate(point.at + share * step, l2)
            if reached.value <= point.value + 1e-4 * share * fall + rounding:
                return reached
        return point


def principal_axes(features: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "D R"], Float[Tensor, " R"]]:
    """Orthonormal axes of the features' second moments, and the second moment along each; R = min(N, D) at most.

    If N < D, axes orthogonal to all features are left out: the penalty keeps weights there at zero. All others are
    kept, however small their second moment: without them in the preconditioner, the fit would not reach its minimum.
    """
    number, width = features.shape
    if number >= width:
        variance, axes = torch.linalg.eigh(features.T @ features / number)
        return axes, variance.clamp(min=0)
    wide = features.double()
    moment, rows = torch.linalg.eigh(wide @ wide.T / number)
    kept = moment > moment[-1] * number * torch.finfo(moment.dtype).eps
    axes = wide.T @ rows[:, kept] / (number * moment[kept]).sqrt()
    return axes.to(features.dtype), moment[kept].to(features.dtype)
