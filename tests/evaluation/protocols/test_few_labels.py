"""Few labels: several stratified draws, and a probe without selection."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.protocol import Result
from simmim_pl.evaluation.protocols.few_labels import FewLabels, choose
from tests.evaluation.protocols.test_linear import Labelled, clusters, context_of


def splits(classes: int = 3) -> tuple[Labelled, Labelled, Labelled]:
    train, validation, test = (
        clusters(seed, n, classes=classes, spread=1.5) for seed, n in ((1, 120), (2, 30), (3, 90))
    )
    return train, validation, test


def evaluate(protocol: FewLabels, *given: Labelled, classes: int = 3, seed: int = 0) -> list[Result]:
    return protocol.evaluate(context_of(*given, classes, seed))


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    wanted=st.lists(st.integers(0, 12), min_size=5, max_size=5),
    seed=st.integers(0, 10**6),
)
def test_each_class_gets_exactly_its_quota(labels: list[int], wanted: list[int], seed: int) -> None:
    known = torch.tensor(labels)
    quota = torch.tensor(wanted).minimum(known.bincount(minlength=5))
    rows = choose(known, quota, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert known[rows].bincount(minlength=5).tolist() == quota.tolist()
    assert torch.equal(choose(known, quota, seed), rows)


def test_a_larger_draw_contains_the_smaller_one() -> None:
    labels = torch.arange(60) % 3
    few, more = (set(choose(labels, torch.tensor([n, n, n]), 4).tolist()) for n in (3, 8))
    assert few < more


def test_seeds_draw_different_images_uniformly() -> None:
    labels = torch.tensor([0] * 8 + [1] * 4)
    drawn = torch.stack([torch.zeros(12).index_fill(0, choose(labels, torch.tensor([2, 2]), n), 1) for n in range(800)])
    assert len({tuple(row) for row in drawn.tolist()}) == 28 * 6  # every pair of each class
    expected = torch.tensor([2 / 8] * 8 + [2 / 4] * 4)
    error = (expected * (1 - expected) / 800).sqrt()
    assert ((drawn.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(("classes", "prior"), [(3, 1.0), (3, 0.1), (5, 1.0), (2, 1.0)])
def test_every_draw_equals_scikit_learn_on_the_same_rows(classes: int, prior: float) -> None:
    train, validation, test = splits(classes)
    protocol = FewLabels(shares=[0.1], per_class=[4], draws=3, prior=prior)
    results = evaluate(protocol, train, validation, test, classes=classes, seed=7)
    assert [result.variant for result in results] == ["10 % of labels", "4 labels a class"]
    middle, scale = train[0].mean(0), train[0].std(0, correction=0)
    known, asked = (train[0] - middle) / scale, (test[0] - middle) / scale
    for result, number in zip(results, (12 // classes * classes, 4 * classes), strict=True):
        quota = torch.full((classes,), number // classes)
        scores, counts = [], np.zeros((classes, classes))
        for draw in range(3):
            rows = choose(train[1], quota, 7000 + draw)
            factor = 2 if classes == 2 else 1  # two classes share one vector there
            model = LogisticRegression(C=factor / prior, tol=1e-10, max_iter=10_000).fit(known[rows], train[1][rows])
            scores.append(model.score(asked, test[1]))
            np.add.at(counts, (test[1], model.predict(asked)), 1)
        accuracy = result.metrics["accuracy"]
        assert accuracy.value == pytest.approx(np.mean(scores), abs=1e-6)
        assert accuracy.std == pytest.approx(np.std(scores, ddof=1), abs=1e-6)
        assert accuracy.std > 0
        np.testing.assert_allclose(result.confusion, counts / 3, atol=1e-12)
        assert result.chosen == {"labels": number}


def test_validation_images_are_never_used() -> None:
    train, validation, test = splits()
    protocol = FewLabels(shares=[0.1], per_class=[3], draws=2)
    first = evaluate(protocol, train, validation, test)
    spoilt = 1e6 * validation[0].flip(0) + torch.inf, validation[1].flip(0)
    assert evaluate(protocol, train, spoilt, test) == first
    context = context_of(train, validation, test, 3)
    del context.known["validation"]
    context.data.splits["validation"].dataset.read = None  # features without information
    assert protocol.evaluate(context) == first


def test_features_are_standardised_by_all_training_images() -> None:
    train, validation, test = splits()
    protocol = FewLabels(shares=[0.1], per_class=[3], draws=2)
    factor = torch.tensor([1e3, 1, 1, 1e-3, 1, 1], dtype=torch.float64)
    moved: Any = [(rows * factor - 2 * factor, labels) for rows, labels in (train, validation, test)]
    assert evaluate(protocol, *moved) == evaluate(protocol, train, validation, test)
    # A test set by itself is not standardised at all.
    half = [(train[0], train[1]), validation, (test[0][::2], test[1][::2])]
    whole = torch.tensor(evaluate(protocol, train, validation, test)[0].confusion)
    rest = [(train[0], train[1]), validation, (test[0][1::2], test[1][1::2])]
    parts = [torch.tensor(evaluate(protocol, *part)[0].confusion) for part in (half, rest)]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_draws_depend_on_the_contexts_seed() -> None:
    given = splits()
    protocol = FewLabels(shares=[], per_class=[2], draws=4)
    first, again, other = (evaluate(protocol, *given, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, [1, 1, 1]), (0.1, [10, 2, 1]), (0.5, [50, 10, 2]), (1.0, [100, 20, 4])]
)
def test_a_share_is_proportional_and_at_least_one_per_class(share: float, expected: list[int]) -> None:
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 4)
    features = torch.randn(124, 4, generator=torch.Generator().manual_seed(0))
    given = features, labels
    (result,) = evaluate(FewLabels(shares=[share], per_class=[], draws=2), given, given, given)
    assert result.chosen == {"labels": sum(expected)}


def test_a_class_with_too_few_images_gives_all() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3)
    features = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    given: Any = features, labels
    (result,) = evaluate(FewLabels(shares=[], per_class=[10], draws=2), given, given, given, classes=3)
    assert result.chosen == {"labels": 13}  # and a class without images has none
    assert result.per_class["class 2"] is None


def test_draws_of_all_labels_agree_and_one_draw_has_no_spread() -> None:
    train, validation, test = splits()
    (all_of_them,) = evaluate(FewLabels(shares=[1.0], per_class=[], draws=3), train, validation, test)
    assert all_of_them.metrics["accuracy"].std == 0
    (once,) = evaluate(FewLabels(shares=[1.0], per_class=[], draws=1), train, validation, test)
    assert once.metrics["accuracy"].std is None


def test_more_labels_give_higher_accuracy() -> None:
    results = evaluate(FewLabels(shares=[1.0], per_class=[1, 8], draws=4), *splits())
    values = {result.variant: result.metrics["accuracy"].value for result in results}
    assert values["1 labels a class"] + 0.05 < values["8 labels a class"] < values["100 % of labels"]


@pytest.mark.parametrize(
    "options",
    [
        {"shares": [0.0]},
        {"shares": [0.1, 1.5]},
        {"shares": [float("nan")]},
        {"per_class": [0]},
        {"draws": 0},
        {"prior": 0.0},
        {"shares": [], "per_class": []},
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has to be|FewLabels needs"):
        FewLabels(**options)
