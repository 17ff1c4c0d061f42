"""kNN votes compared with scikit-learn, in memory bounded by the block size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.protocols.knn import KNN, Similarity, knn_scores, nearest, votes
from tests.evaluation.protocols.test_linear import Labelled, context_of

CLASSES = 4
metrics = st.sampled_from(["cosine", "euclidean"])


def draw(seed: int, number: int, width: int = 5, spread: float = 1.0) -> Labelled:
    """Overlapping classes, all of them present."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (number - CLASSES,), generator=generator)])
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return centres[labels] + spread * noise + 0.2, labels


def similarity(distance: np.ndarray, metric: Similarity) -> np.ndarray:
    """Our similarity from scikit-learn's distance: cosine, or minus the distance."""
    return 1 - distance if metric == "cosine" else -distance


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    number=st.integers(10, 60),
    k=st.integers(1, 10),
    metric=metrics,
    block=st.integers(1, 70),
)
def test_neighbours_equal_scikit_learn_for_any_block_size(
    seed: int, number: int, k: int, metric: Similarity, block: int
) -> None:
    (bank, labels), (queries, _) = draw(seed, number), draw(seed + 1, 12)
    near, names = nearest(bank, labels, queries, k, metric, block)
    reference = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(bank)
    distance, where = reference.kneighbors(queries)
    np.testing.assert_allclose(near, similarity(distance, metric), atol=1e-9)
    assert torch.equal(names, labels[torch.from_numpy(where)])


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 20),
    temperature=st.sampled_from([None, 0.05, 0.1, 0.5, 2.0]),
    metric=metrics,
)
def test_equal_and_weighted_votes_equal_scikit_learn(
    seed: int, k: int, temperature: float | None, metric: Similarity
) -> None:
    (bank, labels), (queries, _) = draw(seed, 30), draw(seed + 1, 12)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp(similarity(distance, metric) / (temperature or 1))

    weighting = "uniform" if temperature is None else weights
    model = KNeighborsClassifier(k, metric=metric, weights=weighting, algorithm="brute").fit(bank, labels)
    found = knn_scores(bank, labels, queries, CLASSES, k, temperature, metric)
    np.testing.assert_allclose(found / found.sum(1, keepdim=True), model.predict_proba(queries), atol=1e-9)
    if temperature is None:
        assert found.sum(1).tolist() == [k] * 12
    else:  # in units of the nearest one's vote
        assert (found.max(1).values >= 1 / CLASSES).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), queries=st.integers(0, 40), block=st.integers(1, 50), metric=metrics)
def test_blocks_do_not_change_results(seed: int, queries: int, block: int, metric: Similarity) -> None:
    bank, labels = draw(seed, 30)
    asked = draw(seed + 1, 40)[0][:queries]
    torch.testing.assert_close(
        nearest(bank, labels, asked, 7, metric, block), nearest(bank, labels, asked, 7, metric, 10**6)
    )


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any returned tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            self.numbers = max(self.numbers, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return out


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_block_size_bounds_memory(metric: Similarity) -> None:
    for bank, queries in ((100, 70), (400, 300)):
        features, labels = draw(0, bank, width=2)
        with Largest() as largest:
            nearest(features, labels, draw(1, queries, width=2)[0], 3, metric, block=32)
        assert largest.numbers == 32**2  # of bank × queries, 120 000
    with Largest() as largest:
        nearest(features, labels, features, 3, metric)
    assert largest.numbers == 400**2  # so the full matrix would be detected


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_cosine_ignores_feature_norms(seed: int, factor: float) -> None:
    (bank, labels), (queries, _) = draw(seed, 30), draw(seed + 1, 6)
    lengths = torch.linspace(1, factor, 30, dtype=torch.float64)[:, None]
    scaled = knn_scores(bank * lengths, labels, queries * factor, CLASSES, 5)
    torch.testing.assert_close(scaled, knn_scores(bank, labels, queries, CLASSES, 5))


def test_euclidean_distances_are_accurate_far_from_the_origin() -> None:
    (bank, labels), (queries, _) = draw(0, 50), draw(1, 20)
    far, asked = (bank + 1000).float(), (queries + 1000).float()
    expected = torch.cdist(asked.double(), far.double()).sort(1).values[:, :5]
    torch.testing.assert_close(-nearest(far, labels, asked, 5, "euclidean")[0].double(), expected, atol=1e-4, rtol=0)


def test_metrics_differ_for_unequal_norms() -> None:
    bank, labels = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    query = torch.tensor([[1.0, 0.5]])
    assert nearest(bank, labels, query, 1, "cosine")[1].tolist() == [[0]]
    assert nearest(bank, labels, query, 1, "euclidean")[1].tolist() == [[1]]


def test_empty_queries_give_empty_results() -> None:
    bank, labels = draw(0, 30)
    assert knn_scores(bank, labels, bank[:0], CLASSES, 5).shape == (0, CLASSES)


def test_k_may_be_at_most_the_number_of_images() -> None:
    bank, labels = draw(0, 10)
    everyone = knn_scores(bank, labels, bank[:1], CLASSES, k=10, temperature=None)
    assert everyone[0].tolist() == labels.bincount(minlength=CLASSES).tolist()
    with pytest.raises(InputError, match="k = 11 training images, there are 10: lower k"):
        knn_scores(bank, labels, bank, CLASSES, k=11)


@pytest.mark.parametrize("temperature", [None, 0.1, 1e-4])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_exact_duplicate_is_its_own_nearest_neighbour(temperature: float | None, metric: Similarity) -> None:
    bank, labels = draw(3, 40)
    found = knn_scores(bank, labels, bank, CLASSES, 1, temperature, metric)
    assert torch.equal(found.argmax(1), labels)
    assert found.sum(1).tolist() == [1.0] * 40  # the best neighbour has one vote at any temperature


def test_duplicates_outvote_less_similar_neighbours() -> None:
    bank = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 4)
    labels = torch.tensor([0] * 3 + [1] * 4)
    query = torch.tensor([[2.0, 0.0]])
    assert knn_scores(bank, labels, query, 2, k=7, temperature=None).tolist() == [[3, 4]]
    weighted = knn_scores(bank, labels, query, 2, k=7, temperature=0.5)
    torch.testing.assert_close(weighted, torch.tensor([[3.0, 4 * np.exp(-2).item()]]))


def test_votes_of_a_smaller_k_are_those_of_the_nearest() -> None:
    (bank, labels), (queries, _) = draw(0, 30), draw(1, 9)
    near = nearest(bank, labels, queries, 20)
    for k in (1, 5, 20):
        counted = knn_scores(bank, labels, queries, CLASSES, k)
        torch.testing.assert_close(votes(*near, CLASSES, k, 0.1), counted)


def test_a_low_temperature_stays_finite() -> None:
    bank, labels = draw(4, 30)
    for metric in ("cosine", "euclidean"):
        found = knn_scores(bank.float(), labels, -bank.float(), CLASSES, 5, 1e-6, metric)
        assert found.isfinite().all()
        assert (found.max(1).values >= 1).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_bank_contains_train_and_validation(metric: Similarity) -> None:
    train, validation, test = draw(5, 30), draw(6, 20), draw(7, 40)
    (result,) = KNN(k=[7], temperature=[None], metric=metric).evaluate(context_of(train, validation, test, CLASSES))
    both = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
    model = KNeighborsClassifier(7, metric=metric, algorithm="brute").fit(*both)
    expected = model.predict(test[0])
    assert result.confusion == confusion_matrix(test[1], expected).tolist()
    assert result.metrics["accuracy"].value == pytest.approx(model.score(*test), abs=1e-6)
    assert result.chosen == {"k": 7, "temperature": None}  # one candidate: no selection
    alone = KNeighborsClassifier(7, metric=metric, algorithm="brute").fit(*train).predict(test[0])
    assert (alone != expected).any()  # so validation counts


def test_candidates_are_selected_on_validation_with_a_bank_of_train() -> None:
    train, validation, test = draw(5, 60, spread=2.0), draw(6, 60, spread=2.0), draw(7, 40)
    (result,) = KNN(k=[1, 15], temperature=[0.2, None]).evaluate(context_of(train, validation, test, CLASSES))
    tried = {}
    for k in (1, 15):
        for temperature in (0.2, None):
            scores = knn_scores(*train, validation[0], CLASSES, k, temperature)
            tried[f"({k}, {temperature})"] = (scores.argmax(1) == validation[1]).double().mean().item()
    assert result.chosen["validation accuracy by (k, temperature)"] == pytest.approx(tried, abs=1e-6)
    assert len({round(value, 6) for value in tried.values()}) > 1  # so candidates differ
    assert max(tried.values()) < 1  # a validation image in the bank would match itself
    assert f"({result.chosen['k']}, {result.chosen['temperature']})" == max(tried, key=tried.__getitem__)
    bank = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    scores = knn_scores(*bank, test[0], CLASSES, result.chosen["k"], result.chosen["temperature"])
    assert result.confusion == confusion_matrix(test[1], scores.argmax(1)).tolist()


def test_the_test_split_does_not_affect_selection() -> None:
    train, validation, (images, labels) = draw(5, 60, spread=2.0), draw(6, 60, spread=2.0), draw(7, 40)
    protocol = KNN(k=[1, 5, 15], temperature=[0.1, None])
    (first,) = protocol.evaluate(context_of(train, validation, (images, labels), CLASSES))
    (other,) = protocol.evaluate(context_of(train, validation, (images, (labels + 1) % CLASSES), CLASSES))
    assert other.chosen == first.chosen
    rolled = torch.tensor(other.confusion).roll(-1, 0)  # the same predictions
    assert rolled.tolist() == first.confusion
    (fewer,) = protocol.evaluate(context_of(train, validation, (-images[:9], labels[:9]), CLASSES))
    assert fewer.chosen == first.chosen


def test_selection_without_validation_images_is_refused() -> None:
    train, test = draw(5, 30), draw(7, 10)
    nothing = train[0][:0], train[1][:0]
    (result,) = KNN(k=[5]).evaluate(context_of(train, nothing, test, CLASSES))  # no selection
    assert result.chosen == {"k": 5, "temperature": 0.1}
    with pytest.raises(InputError, match="The validation split is empty, and this evaluation selects on it"):
        KNN(k=[3, 5]).evaluate(context_of(train, nothing, test, CLASSES))


@pytest.mark.parametrize("options", [{"k": []}, {"k": [0]}, {"temperature": []}, {"temperature": [0.1, 0.0]}])
def test_invalid_candidates_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has to be|needs at least one k and one temperature"):
        KNN(**options)


def test_euclidean_votes_are_equal_unless_a_temperature_is_given() -> None:
    assert KNN().temperature == (0.1,)
    assert KNN(metric="euclidean").temperature == (None,)
    assert KNN(metric="euclidean", temperature=[2.0]).temperature == [2.0]
    for refused in ([float("nan")], [float("inf")], []):
        with pytest.raises(InputError, match=r"temperature has to be finite|one temperature"):
            KNN(temperature=refused)
