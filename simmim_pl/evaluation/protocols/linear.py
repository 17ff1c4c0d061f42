"""Linear probe: multinomial logistic regression on cached features, its penalty chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.features import Labelled, varies
from simmim_pl.evaluation.protocol import Protocol, best, by_name
from simmim_pl.evaluation.regression import LogisticRegression, Weights
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
        folds: fit on each predefined fold of the data set, such as STL-10's ten, with a part of each held out for
            validation. The result is the mean and standard deviation over folds.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    @ranged
    def __init__(
        self,
        l2: Sequence[PositiveFloat] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        folds: bool = False,
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.l2, self.folds = strongest_first(l2), folds

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        classes = context.classes()
        context.require_validation()
        train, validation, test = (context.vectors(split) for split in ("train", "validation", "test"))
        if not self.folds:
            return [probe(train, validation, test, classes, self.l2)]
        found = [predict(*parts, test[0], len(classes), self.l2) for parts in folds(context, train, validation)]
        predicted = torch.stack([labels for labels, _ in found])
        explained = {"accuracy by fold": [round(each, 6) for each in (predicted == test[1]).double().mean(1).tolist()]}
        explained["by fold"] = [chosen for _, chosen in found]
        result = classification(predicted, test[1], classes)
        return [replace(result, chosen=explained, variant=f"{len(found)} folds")]


def folds(context: EvaluationContext, train: Labelled, validation: Labelled) -> Iterator[tuple[Labelled, Labelled]]:
    """The training and validation rows of every fold that the data set defines.

    Raises:
        InputError: the set defines no folds, or a fold has no training or no validation rows.
    """
    source, splits = context.data.source, context.data.splits
    if not source.folds:
        raise InputError(f"{source.name} defines no folds: leave out folds, or evaluate on a set such as STL10.")
    for number, fold in enumerate(source.folds):
        parts = []
        for name, (features, labels) in (("train", train), ("validation", validation)):
            rows = torch.isin(torch.as_tensor(splits[name].indices), fold).to(labels.device)
            if not rows.any():
                raise InputError(f"Fold {number} of {source.name} has no {name} image: change --data.validation.")
            parts.append((features[rows], labels[rows]))
        yield parts[0], parts[1]


def strongest_first(l2: Sequence[float]) -> list[float]:
    """Penalties in descending order, so that each fit starts from a similar one. Raises :class:`InputError`."""
    if not l2:
        raise InputError("A linear probe needs at least one penalty: give l2.")
    return sorted(l2, reverse=True)


def probe(
    train: Labelled, validation: Labelled, test: Labelled, classes: list[str], penalties: Sequence[float]
) -> Result:
    """Choose the penalty on validation, fit on train and validation, look at test."""
    predicted, chosen = predict(train, validation, test[0], len(classes), penalties)
    return replace(classification(predicted[None], test[1], classes), chosen=chosen)


def predict(
    train: Labelled, validation: Labelled, test: Float[Tensor, "M D"], classes: int, penalties: Sequence[float]
) -> tuple[Int64[Tensor, " M"], dict[str, Any]]:
    """The class of each test item, the chosen penalty, and the validation accuracies."""
    mean, scale = moments(train[0])
    fitted, tried, asked = ((features - mean) / scale for features in (train[0], validation[0], test))
    regression, accuracy = LogisticRegression(fitted, train[1], classes), {}
    weights: dict[float, Weights] = {}
    for l2 in penalties:
        weights[l2] = regression.fit(l2, next(reversed(weights.values()), None))
        weight, bias = weights[l2]
        predicted = (tried @ weight + bias).argmax(1)
        accuracy[l2] = (predicted == validation[1]).float().mean().item()
        if accuracy[l2] < max(accuracy.values()) - GIVE_UP:
            break
    chosen = best(accuracy)
    both = LogisticRegression(torch.cat([fitted, tried]), torch.cat([train[1], validation[1]]), classes)
    weight, bias = both.fit(chosen, weights[chosen])  # weights of a weaker penalty may be a distant start
    explained = {"l2": chosen, "validation accuracy by l2": by_name(accuracy)}
    return (asked @ weight + bias).argmax(1), explained


def moments(features: Float[Tensor, "N D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and standard deviation of each feature; the deviation of a constant feature is replaced by 1."""
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(varies(features), std, 1.0)


def linear_scores(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    classes: int,
    prior: float = 1.0,
) -> Float[Tensor, "Q C"]:
    """Logits of queries by logistic regression on the bank, whose features standardise both.

    Nothing is chosen: the penalty is ``prior / N``, as in :class:`simmim_pl.evaluation.FewLabels`.
    """
    mean, scale = moments(bank)
    weight, bias = LogisticRegression((bank - mean) / scale, labels, classes).fit(prior / len(bank))
    return (queries - mean) / scale @ weight + bias
