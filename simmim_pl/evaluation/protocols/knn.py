"""k-nearest-neighbour classification of frozen features, without training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.protocol import Protocol, best, by_name
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged
from simmim_pl.runtime.unit_norm import unit

Similarity = Literal["cosine", "euclidean"]


class KNN(Protocol):
    """k-nearest-neighbour accuracy on test among all training and validation images.

    With several ``k`` or ``temperature``, the best on validation is used, with neighbours among the training images.

    Args:
        k: candidate numbers of neighbours that vote.
        temperature: candidate temperatures of the vote, see :func:`votes`; null gives equal votes. By default 0.1 for
            cosine similarity and equal votes for distances, which have no natural scale.
        metric: cosine similarity, or Euclidean distance of features as they are.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    @ranged
    def __init__(
        self,
        k: Sequence[PositiveInt] = (20,),
        temperature: Sequence[PositiveFloat | None] | None = None,
        metric: Similarity = "cosine",
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        if temperature is None:
            temperature = (0.1,) if metric == "cosine" else (None,)
        if not k or not temperature:
            raise InputError(f"KNN needs at least one k and one temperature, got k {k}, temperature {temperature}.")
        self.k, self.temperature, self.metric = k, temperature, metric

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        classes = context.classes()
        candidates = list(product(self.k, self.temperature))
        if len(candidates) > 1:
            context.require_validation()
        train, validation, test = (context.vectors(split) for split in ("train", "validation", "test"))
        chosen, accuracy = candidates[0], {}
        if len(candidates) > 1:
            near = nearest(*train, validation[0], max(self.k), self.metric)
            for k, temperature in candidates:
                predicted = votes(*near, len(classes), k, temperature).argmax(1)
                accuracy[k, temperature] = (predicted == validation[1]).float().mean().item()
            chosen = best(accuracy)
        bank, labels = (torch.cat(parts) for parts in zip(train, validation, strict=True))
        scores = knn_scores(bank, labels, test[0], len(classes), *chosen, self.metric)
        result = classification(scores.argmax(1)[None], test[1], classes)
        explained: dict[str, Any] = {"k": chosen[0], "temperature": chosen[1]}
        if accuracy:
            explained["validation accuracy by (k, temperature)"] = by_name(accuracy)
        return [replace(result, chosen=explained, variant="" if self.metric == "cosine" else self.metric)]


def knn_scores(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    classes: int,
    k: int = 20,
    temperature: float | None = 0.1,
    metric: Similarity = "cosine",
) -> Float[Tensor, "Q C"]:
    """Votes of each query's k nearest rows of the bank, ``[Q, C]``; see :func:`nearest` and :func:`votes`.

    >>> bank, labels = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]]), torch.tensor([0, 0, 1])
    >>> knn_scores(bank, labels, torch.tensor([[1.0, 0.2]]), classes=2, k=3, temperature=None)
    tensor([[2., 1.]])
    """
    return votes(*nearest(bank, labels, queries, k, metric), classes, k, temperature)


def nearest(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    k: int,
    metric: Similarity = "cosine",
    block: int = 4096,
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """Similarity and label of each query's k nearest rows of the bank, nearest first: every row is compared.

    - ``metric``: ``cosine`` similarity, or minus the ``euclidean`` distance.
    - ``block``: queries and rows compared at once; besides input and result, memory is a few ``block²`` and
      ``block · D`` numbers, whatever N and Q are. The bank may lie on another device than the queries.

    Raises:
        InputError: the bank holds fewer than k rows.
    """
    if len(bank) < k:
        raise InputError(f"kNN needs at least k = {k} training images, there are {len(bank)}: lower k.")
    middle = bank.mean(0).to(queries.device) if metric == "euclidean" else None

    def prepared(features: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        # Centring does not change distances, and reduces the rounding error of the squares.
        return unit(features) if middle is None else features - middle

    similarity, found = queries.new_zeros(len(queries), k), labels.new_zeros(len(queries), k, device=queries.device)
    for rows in torch.arange(len(queries), device=queries.device).split(block):
        closest, label = queries.new_zeros(len(rows), 0), found.new_zeros(len(rows), 0)
        asked = prepared(queries[rows])
        for some, known in zip(bank.split(block), labels.split(block), strict=True):
            part, known = prepared(some.to(queries.device)), known.to(queries.device)
            closeness = asked @ part.T
            if middle is not None:
                square = asked.square().sum(1, keepdim=True) + part.square().sum(1) - 2 * closeness
                closeness = -square.clamp(min=0).sqrt()
            best_here, where = closeness.topk(min(k, len(part)), dim=1)
            both, names = torch.cat([closest, best_here], 1), torch.cat([label, known[where]], 1)
            closest, where = both.topk(min(k, both.shape[1]), dim=1)
            label = names.gather(1, where)
        similarity[rows], found[rows] = closest, label
    return similarity, found


def votes(
    similarity: Float[Tensor, "Q K"],
    labels: Int64[Tensor, "Q K"],
    classes: int,
    k: int,
    temperature: float | None,
) -> Float[Tensor, "Q C"]:
    """Votes by class of the first k of each query's neighbours.

    - ``temperature``: a neighbour of similarity s votes ``exp(s / temperature)`` (Wu et al. 2018, arXiv 1805.01978,
      section 3.4), up to a factor a query; ``None`` gives every neighbour one vote. With ``weights`` to match, these
      are scikit-learn's ``KNeighborsClassifier``.

    Raises:
        InputError: the temperature is no positive number.
    """
    if temperature is not None and not 0 < temperature < math.inf:
        raise InputError(f"kNN's temperature must be a positive number or null, got {temperature}.")
    similarity, labels = similarity[:, :k], labels[:, :k]
    # Subtracting the largest similarity keeps exp finite and does not change the ranking.
    shifted = similarity - similarity[:, :1]
    vote = torch.ones_like(shifted) if temperature is None else (shifted / temperature).exp()
    return similarity.new_zeros(len(similarity), classes).scatter_add_(1, labels, vote)
