"""Votes of the nearest neighbours, against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import KNN
from simmim_pl.evaluation.knn import knn_scores
from simmim_pl.records import InputError

CLASSES = 4


def draw(seed: int, number: int, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(number, width, generator=generator, dtype=torch.float64) + 0.2
    labels = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (number - CLASSES,), generator=generator)])
    return features, labels


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), number=st.integers(10, 60), k=st.integers(1, 10))
def test_equal_votes_are_scikit_learns(seed: int, number: int, k: int) -> None:
    bank, labels = draw(seed, number)
    queries, _ = draw(seed + 1, 12)
    model = KNeighborsClassifier(k, metric="cosine", weights="uniform", algorithm="brute").fit(bank, labels)
    votes = knn_scores(bank, labels, queries, CLASSES, k, temperature=None)
    np.testing.assert_allclose(votes, model.predict_proba(queries) * k, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 20), temperature=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
def test_weighted_votes_are_scikit_learns_in_proportion(seed: int, k: int, temperature: float) -> None:
    bank, labels = draw(seed, 30)
    queries, _ = draw(seed + 1, 12)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature)

    model = KNeighborsClassifier(k, metric="cosine", weights=weights, algorithm="brute").fit(bank, labels)
    votes = knn_scores(bank, labels, queries, CLASSES, k, temperature)
    np.testing.assert_allclose(votes / votes.sum(1, keepdim=True), model.predict_proba(queries), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), number=st.integers(4, 40), block=st.integers(1, 50))
def test_the_size_of_a_block_does_not_matter(seed: int, number: int, block: int) -> None:
    bank, labels = draw(seed, 30)
    queries, _ = draw(seed + 1, number)
    whole = knn_scores(bank, labels, queries, CLASSES, 5, block=10**6)
    torch.testing.assert_close(knn_scores(bank, labels, queries, CLASSES, 5, block=block), whole)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_the_length_of_a_feature_does_not_matter(seed: int, factor: float) -> None:
    bank, labels = draw(seed, 30)
    queries, _ = draw(seed + 1, 6)
    lengths = torch.linspace(1, factor, 30, dtype=torch.float64)[:, None]
    scaled = knn_scores(bank * lengths, labels, queries * factor, CLASSES, 5)
    torch.testing.assert_close(scaled, knn_scores(bank, labels, queries, CLASSES, 5))


def test_no_queries_give_no_rows() -> None:
    bank, labels = draw(0, 30)
    assert knn_scores(bank, labels, bank[:0], CLASSES, 5).shape == (0, CLASSES)


def test_more_neighbours_than_images_are_refused_and_as_many_are_not() -> None:
    bank, labels = draw(0, 10)
    everyone = knn_scores(bank, labels, bank[:1], CLASSES, k=10, temperature=None)
    assert everyone[0].tolist() == labels.bincount(minlength=CLASSES).tolist()
    with pytest.raises(InputError, match="k = 11 training images, there are 10: lower k"):
        knn_scores(bank, labels, bank, CLASSES, k=11)


@pytest.mark.parametrize("temperature", [None, 0.1, 1e-4])
def test_an_exact_duplicate_is_its_own_nearest_neighbour(temperature: float | None) -> None:
    bank, labels = draw(3, 40)
    votes = knn_scores(bank, labels, bank * 3, CLASSES, k=1, temperature=temperature)
    assert torch.equal(votes.argmax(1), labels)
    assert votes.sum(1).tolist() == [1.0] * 40  # the best neighbour has one vote at any temperature


def test_duplicates_of_a_query_outvote_what_is_less_similar() -> None:
    bank = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 4)
    labels = torch.tensor([0] * 3 + [1] * 4)
    query = torch.tensor([[2.0, 0.0]])
    assert knn_scores(bank, labels, query, 2, k=7, temperature=None).tolist() == [[3, 4]]
    weighted = knn_scores(bank, labels, query, 2, k=7, temperature=0.5)
    torch.testing.assert_close(weighted, torch.tensor([[3.0, 4 * np.exp(-2).item()]]))


def test_a_cold_temperature_stays_finite() -> None:
    bank, labels = draw(4, 30)
    votes = knn_scores(bank.float(), labels, -bank.float(), CLASSES, 5, temperature=1e-6)
    assert votes.isfinite().all()
    assert (votes.max(1).values >= 1).all()


def test_the_bank_is_train_and_validation_and_test_labels_are_not_read() -> None:
    train, validation, test = draw(5, 20), draw(6, 10), draw(7, 15)
    module = KNN(k=7, temperature=None, encoder=FastCNN(2), baselines=False)
    scores, chosen = module.judge(train, validation, test, CLASSES)
    both = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
    model = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(*both)
    np.testing.assert_allclose(scores, model.predict_proba(test[0]) * 7, atol=1e-9)
    assert chosen == {"k": 7, "temperature": None}
    blind, _ = module.judge(train, validation, (test[0], torch.zeros_like(test[1])), CLASSES)
    assert torch.equal(blind, scores)
