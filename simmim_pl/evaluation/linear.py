"""Linear probe: multinomial logistic regression on frozen features, to convergence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.evaluation.frozen import Frozen, Labelled

# A penalty whose validation accuracy is this far below the best ends the sweep: weaker ones overfit more, and are slow.
GIVE_UP = 0.01

Weights = tuple[Float[Tensor, "D C"], Float[Tensor, " C"]]


class LinearProbe(Frozen):
    """Linear-probe accuracy of a frozen encoder on test.

    Features are standardised by the training images. The strength of the L2 penalty is chosen on the held-out
    validation split; the chosen one is fitted again on train and validation together; test is looked at once.

    Args:
        l2: candidate penalties, see :func:`logistic_regression`.
        kwargs: see :class:`simmim_pl.evaluation.frozen.Frozen`.
    """

    def __init__(self, l2: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.l2 = sorted(l2, reverse=True)  # strongest first: each fit starts from the one before

    def judge(
        self, train: Labelled, validation: Labelled, test: Labelled, classes: int
    ) -> tuple[Float[Tensor, "Q C"], dict[str, Any]]:
        mean, std = train[0].mean(0), train[0].std(0)
        scale = torch.where(std > 0, std, 1.0)  # a feature that never varies says nothing either way
        fitted, tried = (train[0] - mean) / scale, (validation[0] - mean) / scale
        weights, best, accuracy = None, self.l2[0], {}
        for l2 in self.l2:
            weights = logistic_regression(fitted, train[1], classes, l2, weights)
            predicted = (tried @ weights[0] + weights[1]).argmax(1)
            accuracy[l2] = (predicted == validation[1]).double().mean().item()
            best = max(accuracy, key=accuracy.__getitem__)
            if accuracy[l2] < accuracy[best] - GIVE_UP:
                break
        weight, bias = logistic_regression(
            torch.cat([fitted, tried]), torch.cat([train[1], validation[1]]), classes, best, weights
        )
        scores = ((test[0] - mean) / scale) @ weight + bias
        return scores, {
            "l2": best,
            "validation accuracy by l2": {f"{key:g}": value for key, value in accuracy.items()},
        }


def logistic_regression(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    classes: int,
    l2: float,
    start: Weights | None = None,
    iterations: int = 500,
) -> Weights:
    """Minimise ``mean cross entropy + l2 / 2 · |W|²`` over ``W [D, C]`` and ``b [C]`` with L-BFGS.

    Equals scikit-learn's ``LogisticRegression(C=1 / (l2 · N))``; the bias is not penalised in either. Two classes are
    no exception here; scikit-learn gives them one weight vector, so there ``C=2 / (l2 · N)``.

    - ``start``: weights to start from, so that a sweep over ``l2`` takes few iterations each.
    """
    shapes = ((features.shape[1], classes), (classes,))
    first = start or tuple(features.new_zeros(shape) for shape in shapes)
    weight, bias = (part.clone().requires_grad_() for part in first)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(features @ weight + bias, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return weight.detach(), bias.detach()
