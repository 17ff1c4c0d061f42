"""Linear probe: multinomial logistic regression on cached features, its penalty chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.features import Labelled, varies
from simmim_pl.evaluation.protocol import Protocol, best, by_name
from simmim_pl.evaluation.regression import LogisticRegression
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.ranges import PositiveFloat, ranged

# A penalty whose validation accuracy is this far below the best ends the search: weaker ones overfit more and are slow.
GIVE_UP = 0.01


class LinearProbe(Protocol):
    """Linear-probe accuracy on test.

    Features are standardised by the training images. The strength of the L2 penalty is chosen on the held-out
    validation split; the chosen one is fitted again on train and validation together; test is looked at once.

    Args:
        l2: candidate penalties, see :class:`simmim_pl.evaluation.regression.LogisticRegression`.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    @ranged
    def __init__(
        self,
        l2: Sequence[PositiveFloat] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.l2 = strongest_first(l2)

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        classes = context.classes()
        context.require_validation()
        train, validation, test = (context.vectors(split) for split in ("train", "validation", "test"))
        return [probe(train, validation, test, classes, self.l2)]


def strongest_first(l2: Sequence[float]) -> list[float]:
    """Penalties in the order in which each fit starts best from the one before. Raises :class:`InputError`."""
    if not l2:
        raise InputError("A linear probe needs at least one penalty: give l2.")
    return sorted(l2, reverse=True)


def probe(
    train: Labelled, validation: Labelled, test: Labelled, classes: list[str], penalties: Sequence[float]
) -> Result:
    """Choose the penalty on validation, fit on train and validation, look at test."""
    mean, scale = moments(train[0])
    fitted, tried, asked = ((features - mean) / scale for features in (train[0], validation[0], test[0]))
    regression, weights, accuracy = LogisticRegression(fitted, train[1], len(classes)), None, {}
    for l2 in penalties:
        weights = regression.fit(l2, weights)
        predicted = (tried @ weights[0] + weights[1]).argmax(1)
        accuracy[l2] = (predicted == validation[1]).float().mean().item()
        if accuracy[l2] < max(accuracy.values()) - GIVE_UP:
            break
    chosen = best(accuracy)
    both = LogisticRegression(torch.cat([fitted, tried]), torch.cat([train[1], validation[1]]), len(classes))
    weight, bias = both.fit(chosen, weights)
    predicted = (asked @ weight + bias).argmax(1)
    explained = {"l2": chosen, "validation accuracy by l2": by_name(accuracy)}
    return replace(classification(predicted[None], test[1], classes), chosen=explained)


def moments(features: Float[Tensor, "N D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and standard deviation of each feature; of one that never varies 1, since it says nothing either way."""
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(varies(features), std, 1.0)
