"""A linear probe on few labels: 1 %, 10 %, or n of each class, over several draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.protocols.linear import moments
from simmim_pl.evaluation.regression import LogisticRegression
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Share, ranged


class FewLabels(Protocol):
    """Accuracy on test of a linear classifier trained on few labels; mean and standard deviation over random draws.

    No hyperparameter is chosen: that would use thousands of validation labels. The penalty is ``prior / n`` for n
    labels, the same Gaussian prior on the weights for every n: scikit-learn's ``LogisticRegression(C=1 / prior)`` (for
    two classes, ``2 / prior``). Features are standardised by all training images, which needs no labels. Validation
    images are not used.

    Args:
        shares: fractions of the training images that are labelled, stratified, with at least one image of each class.
        per_class: numbers of labelled images per class.
        draws: number of random choices of the labelled images.
        prior: strength of the penalty.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    @ranged
    def __init__(
        self,
        shares: Sequence[Share] = (0.01, 0.1),
        per_class: Sequence[PositiveInt] = (10,),
        draws: PositiveInt = 5,
        prior: PositiveFloat = 1.0,
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        if not [*shares, *per_class]:
            raise InputError("FewLabels needs to know how many labels: give shares or per_class.")
        self.shares, self.per_class, self.draws, self.prior = shares, per_class, draws, prior

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        classes = context.classes()
        train, test = (context.vectors(split) for split in ("train", "test"))
        counts = train[1].bincount(minlength=len(classes))
        quotas = {f"{100 * share:g} % of labels": (counts * share).round().long() for share in self.shares}
        quotas |= {f"{number} labels a class": (counts > 0) * number for number in self.per_class}
        mean, scale = moments(train[0])
        known, asked = (train[0] - mean) / scale, (test[0] - mean) / scale
        results = []
        for name, quota in quotas.items():
            quota = quota.clamp(min=1).minimum(counts)  # a class without images stays without
            predicted = []
            for draw in context.watched(range(self.draws), name, self.draws):
                rows = choose(train[1], quota, 1000 * context.seed + draw)
                regression = LogisticRegression(known[rows], train[1][rows], len(classes))
                weight, bias = regression.fit(self.prior / len(rows))
                predicted.append((asked @ weight + bias).argmax(1))
            result = classification(torch.stack(predicted), test[1], classes)
            results.append(replace(result, chosen={"labels": int(quota.sum())}, variant=name))
        return results


def choose(labels: Int64[Tensor, " N"], quota: Int64[Tensor, " C"], seed: int) -> Int64[Tensor, " n"]:
    """Positions of a random choice of ``quota[c]`` images of each class c, ascending.

    >>> labels = torch.tensor([0, 0, 0, 1, 1])
    >>> labels[choose(labels, torch.tensor([2, 1]), seed=0)].tolist()
    [0, 0, 1]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount(minlength=len(quota))
    nth = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[by_class]]
    return by_class[nth < quota[labels[by_class]]].sort().values
