"""k-nearest-neighbour classification of frozen features: no training, no knobs to tune on test."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.evaluation.frozen import Frozen, Labelled
from simmim_pl.records import InputError


def knn_scores(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    classes: int,
    k: int = 20,
    temperature: float | None = 0.1,
    block: int = 1024,
) -> Float[Tensor, "Q C"]:
    """Votes of each query's k most cosine-similar rows of the bank, ``[Q, C]``.

    - ``temperature``: a neighbour of similarity s votes ``exp(s / temperature)`` (Wu et al. 2018, arXiv 1805.01978,
      section 3.4); ``None`` gives every neighbour one vote, as scikit-learn's ``KNeighborsClassifier``.
    - ``block``: queries compared at once; memory is ``block · N``.

    Raises:
        InputError: the bank holds fewer than k rows.

    >>> bank, labels = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]]), torch.tensor([0, 0, 1])
    >>> knn_scores(bank, labels, torch.tensor([[1.0, 0.2]]), classes=2, k=3, temperature=None)
    tensor([[2., 1.]])
    """
    if len(bank) < k:
        raise InputError(f"kNN needs at least k = {k} training images, there are {len(bank)}: lower k.")
    bank = F.normalize(bank, dim=1)
    scores = []
    for part in F.normalize(queries, dim=1).split(block):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        # Shifting by the best keeps exp finite and changes no ranking.
        shifted = similarity - similarity[:, :1]
        vote = torch.ones_like(shifted) if temperature is None else (shifted / temperature).exp()
        scores.append(part.new_zeros(len(part), classes).scatter_add_(1, labels[nearest], vote))
    return torch.cat(scores) if scores else queries.new_zeros(0, classes)


class KNN(Frozen):
    """k-nearest-neighbour accuracy of a frozen encoder on test, by cosine similarity to all training images.

    ``k`` and ``temperature`` are declared, not tuned: validation images are part of the bank.

    Args:
        k: neighbours that vote.
        temperature: weight of a vote, see :func:`knn_scores`; null gives equal votes.
        kwargs: see :class:`simmim_pl.evaluation.frozen.Frozen`.
    """

    def __init__(self, k: int = 20, temperature: float | None = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k, self.temperature = k, temperature

    def judge(
        self, train: Labelled, validation: Labelled, test: Labelled, classes: int
    ) -> tuple[Float[Tensor, "Q C"], dict[str, Any]]:
        bank, labels = (torch.cat(parts) for parts in zip(train, validation, strict=True))
        scores = knn_scores(bank, labels, test[0], classes, self.k, self.temperature)
        return scores, {"k": self.k, "temperature": self.temperature}
