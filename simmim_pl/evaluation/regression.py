"""Multinomial logistic regression on fixed features, to convergence, quickly for many penalties."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Weights = tuple[Float[Tensor, "D C"], Float[Tensor, " C"]]


class LogisticRegression:
    """Minimises ``mean cross entropy + l2 / 2 · |W|²`` over ``W [D, C]`` and ``b [C]`` with L-BFGS.

    Equals scikit-learn's ``LogisticRegression(C=1 / (l2 · N))``; the bias is not penalised in either. Two classes are
    no exception here; scikit-learn gives them one weight vector, so there ``C=2 / (l2 · N)``.

    Features are turned into their principal axes once. There the Hessian at ``W = 0``, for centred features
    ``(variance / C + l2)`` along each axis, is diagonal, and L-BFGS works on weights scaled by its root: the same
    minimum, since neither turning nor scaling the unknowns moves it, in a small part of the iterations.

    Args:
        features: ``[N, D]``; best standardised.
        labels: ``[N]``, in 0 … C − 1.
        classes: C.
    """

    def __init__(self, features: Float[Tensor, "N D"], labels: Int64[Tensor, " N"], classes: int) -> None:
        self.labels, self.classes = labels, classes
        self.axes, self.variance = principal_axes(features)
        self.turned = features @ self.axes

    def fit(self, l2: float, start: Weights | None = None, iterations: int = 1000, tolerance: float = 1e-7) -> Weights:
        """Weights at the minimum.

        - ``start``: weights to start from, so that a sweep over ``l2`` takes few iterations each.
        - ``tolerance``: nats; stop when an iteration lowers the objective by less.
        """
        # A row a class: both products of a step then run over the features in the order in which they lie in memory.
        scale = (self.variance / self.classes + l2).rsqrt()
        scaled = self.turned.new_zeros(self.classes, len(scale)) if start is None else (start[0].T @ self.axes) / scale
        bias = self.turned.new_zeros(self.classes, 1) if start is None else start[1][:, None].clone()
        solver = torch.optim.LBFGS(
            [scaled.requires_grad_(), bias.requires_grad_()],
            max_iter=iterations,
            history_size=50,
            tolerance_grad=tolerance,
            tolerance_change=tolerance,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            solver.zero_grad()
            weight = scale * scaled
            logits = weight @ self.turned.T + bias
            loss = F.cross_entropy(logits[None], self.labels[None]) + l2 / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(objective)
        return self.axes @ (scale * scaled.detach()).T, bias.detach()[:, 0]


def principal_axes(features: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "D R"], Float[Tensor, " R"]]:
    """Orthonormal axes of the features' second moments, and the second moment along each; R = min(N, D) at most.

    Axes along which no feature lies are left out when N < D: the penalty keeps weights there at zero.
    """
    number, width = features.shape
    if number >= width:
        variance, axes = torch.linalg.eigh(features.T @ features / number)
        return axes, variance.clamp(min=0)
    wide = features.double()
    moment, rows = torch.linalg.eigh(wide @ wide.T / number)
    kept = moment > moment[-1] * number * torch.finfo(features.dtype).eps
    axes = wide.T @ rows[:, kept] / (number * moment[kept]).sqrt()
    return axes.to(features.dtype), moment[kept].to(features.dtype)
