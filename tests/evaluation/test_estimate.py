"""Metrics equal scikit-learn's, and intervals equal SciPy's bootstrap."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score
from torch import Tensor

from simmim_pl.evaluation.estimate import bootstrap, classification, iou, segmentation
from simmim_pl.evaluation.result import Estimate

NAMES = ["a", "b", "c", "d"]


class OnMps(Tensor):
    """A tensor like one on Apple's GPU, without float64."""

    device = torch.device("mps")  # type: ignore[assignment]

    def double(self, *_: object, **__: object) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self, *_: object, **__: object) -> Tensor:
        return self.as_subclass(Tensor)


def coins(number: int, chance: float, seed: int = 0) -> Tensor:
    """Correctness of each of N items, ``[N, 1]``."""
    return (torch.rand(number, 1, generator=torch.Generator().manual_seed(seed)) < chance).double()


def ends(found: Estimate) -> list[float]:
    return [found.low, found.high]


def first(mean: Tensor) -> Tensor:
    return mean[:, 0]


@pytest.mark.parametrize(("number", "chance"), [(60, 0.5), (200, 0.9), (1000, 0.3)])
def test_the_interval_equals_scipys_percentile_bootstrap(number: int, chance: float) -> None:
    items = coins(number, chance)
    found = bootstrap(items, first)
    reference = stats.bootstrap(
        (items[:, 0].numpy(),),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
        batch=500,
    ).confidence_interval
    assert found.value == pytest.approx(items.mean().item(), abs=1e-6)
    # A 2.5 % quantile of R resamples has a standard error of √(0.025 · 0.975 / R) / density ≈ 2.7 σ / √R.
    sigma = items.std().item() / number**0.5
    error = 4 * 2.7 * sigma / 1000**0.5 + 1 / number  # and accuracies are discrete
    assert ends(found) == pytest.approx([reference.low, reference.high], abs=error)
    assert error < 1.96 * sigma  # so the test is not trivial


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.8])
def test_the_interval_of_many_items_equals_the_binomial(chance: float) -> None:
    number = 2000
    found = bootstrap(coins(number, chance), first)
    sigma = (found.value * (1 - found.value) / number) ** 0.5
    expected = [found.value - 1.96 * sigma, found.value + 1.96 * sigma]
    assert ends(found) == pytest.approx(expected, abs=4 * 2.7 * sigma / 1000**0.5 + 1 / number)


def test_the_interval_has_its_nominal_coverage() -> None:
    covered = 0
    for seed in range(100):
        low, high = ends(bootstrap(coins(100, 0.6, seed), first, seed))
        covered += low <= 0.6 <= high
    assert 88 <= covered <= 99  # 95 ± 3 σ of 100


def test_the_interval_of_a_ratio_equals_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(80, 2, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 1.0])
    found = bootstrap(pairs, lambda mean: mean[:, 0] / mean[:, 1])

    def ratio(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
        return above.mean(axis) / below.mean(axis)

    reference = stats.bootstrap(
        (*pairs.T.numpy(),), ratio, paired=True, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    )
    assert found.value == pytest.approx(ratio(*pairs.T.numpy()), abs=1e-6)
    error = 4 * 2.7 * reference.standard_error * (1 / 1000 + 1 / 5000) ** 0.5
    assert ends(found) == pytest.approx([*reference.confidence_interval], abs=error)


def test_the_interval_depends_on_the_seed() -> None:
    items = torch.rand(50, 1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    one = bootstrap(items, first)
    torch.manual_seed(2)
    assert bootstrap(items, first) == one
    assert ends(bootstrap(items, first, seed=1)) != ends(one)
    assert bootstrap(items, first, seed=1).value == one.value


@pytest.mark.parametrize("cells", [1, 70, 777, 10_000])
def test_blocks_of_resamples_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    items = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    whole = bootstrap(items, lambda mean: mean.prod(1))
    monkeypatch.setattr("simmim_pl.evaluation.estimate.CELLS", cells)
    assert bootstrap(items, lambda mean: mean.prod(1)) == whole


@settings(deadline=None, max_examples=20)
@given(number=st.integers(1, 60), chance=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_the_interval_is_ordered_and_lies_within_the_values(number: int, chance: float, seed: int) -> None:
    items = coins(number, chance, seed)
    low, high = ends(bootstrap(items, first, seed))
    assert items.min() <= low <= high <= items.max()
    assert (low == high) == (items.min() == items.max()).item() or number < 6


def test_a_metric_of_whole_numbers_is_computed_in_double_precision() -> None:
    items = torch.tensor([[2**24 + 1], [2**24 + 1]])
    assert bootstrap(items, first) == Estimate(2.0**24 + 1, 2.0**24 + 1, 2.0**24 + 1)


@settings(deadline=None, max_examples=30)
@given(number=st.integers(1, 80), repeats=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_accuracy_confusion_and_per_class_equal_scikit_learn(number: int, repeats: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (number,), generator=generator)  # the fourth class does not occur
    predicted = torch.randint(4, (repeats, number), generator=generator)
    found = classification(predicted, labels, NAMES)
    scores = [accuracy_score(labels, each) for each in predicted]
    accuracy = found.metrics["accuracy"]
    assert accuracy.value == pytest.approx(np.mean(scores), abs=1e-6)
    assert (accuracy.std is not None) == (repeats > 1)
    if repeats > 1:
        assert accuracy.std == pytest.approx(np.std(scores, ddof=1), abs=1e-6)
    matrices = [confusion_matrix(labels, each, labels=range(4)) for each in predicted]
    np.testing.assert_allclose(found.confusion, np.mean(matrices, 0), atol=1e-12)
    recalls = recall_score(
        labels.repeat(repeats), predicted.flatten(), labels=range(4), average=None, zero_division=np.nan
    )
    assert list(found.per_class) == NAMES
    for value, expected in zip(found.per_class.values(), recalls, strict=True):
        assert value is None if np.isnan(expected) else value == pytest.approx(expected, abs=1e-6)
    assert found.per_class["d"] is None
    assert json.loads(json.dumps(found.entry(), allow_nan=False)) == found.entry()


def test_the_interval_resamples_items_not_repeats() -> None:
    labels = torch.zeros(200, dtype=torch.int64)
    right = coins(200, 0.5)[:, 0].long()
    once = classification((1 - right)[None], labels, ["a", "b"]).metrics["accuracy"]
    copies = classification((1 - right).repeat(9, 1), labels, ["a", "b"]).metrics["accuracy"]
    assert copies == replace(once, std=0.0)  # equal repeats add no information
    # Repeats that are wrong about different items: every item has the same mean, so resampling changes nothing.
    turned = torch.stack([right, 1 - right])
    assert ends(classification(turned, labels, ["a", "b"]).metrics["accuracy"]) == [0.5, 0.5]


def pixels(seed: int, images: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    """True and predicted masks, [N, 5, 5]: 255 is ignored, class 3 does not occur."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(classes - 1, (images, 5, 5), generator=generator)
    flip = torch.rand(images, 5, 5, generator=generator) < 0.4
    predicted = torch.where(flip, torch.randint(classes - 1, (images, 5, 5), generator=generator), mask)
    return torch.where(torch.rand(images, 5, 5, generator=generator) < 0.2, 255, mask), predicted


def counted(mask: Tensor, predicted: Tensor, classes: int = 4) -> Tensor:
    """Each image's confusion matrix by scikit-learn, without ignored pixels."""
    known = [
        confusion_matrix(true[true != 255], guess[true != 255], labels=range(classes))
        if (true != 255).any()
        else np.zeros((classes, classes))
        for true, guess in zip(mask, predicted, strict=True)
    ]
    return torch.tensor(np.array(known), dtype=torch.int64)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 12))
def test_mean_iou_and_pixel_accuracy_equal_scikit_learn(seed: int, images: int) -> None:
    mask, predicted = pixels(seed, images)
    found = segmentation(counted(mask, predicted), NAMES)
    true, guess = mask[mask != 255], predicted[mask != 255]
    seen = sorted(set(true.tolist()) | set(guess.tolist()))
    each = jaccard_score(true, guess, labels=seen, average=None)
    assert found.metrics["mean IoU"].value == pytest.approx(each.mean(), abs=1e-6)
    assert found.metrics["pixel accuracy"].value == pytest.approx(accuracy_score(true, guess), abs=1e-6)
    expected = dict(zip(seen, each, strict=True))
    for place, name in enumerate(NAMES):
        value = found.per_class[name]
        assert value is None if place not in expected else value == pytest.approx(expected[place], abs=1e-6)
    assert found.per_class["d"] is None
    assert found.confusion == confusion_matrix(true, guess, labels=range(4)).tolist()
    assert json.loads(json.dumps(found.entry(), allow_nan=False)) == found.entry()


def test_a_device_without_float64_gives_the_same() -> None:
    predicted, labels = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 1]]), torch.tensor([0, 1, 0, 1])
    apple = classification(predicted.as_subclass(OnMps), labels.as_subclass(OnMps), ["a", "b"])
    assert apple == classification(predicted, labels, ["a", "b"])
    confusions = counted(*pixels(3))
    assert segmentation(confusions.as_subclass(OnMps), NAMES) == segmentation(confusions, NAMES)
    items = coins(9, 0.5).float()
    assert bootstrap(items.as_subclass(OnMps), first) == bootstrap(items, first)


def test_mean_iou_is_over_the_whole_set() -> None:
    confusions = torch.tensor([[[8, 0], [1, 1]], [[0, 2], [0, 0]]])
    value = segmentation(confusions, ["a", "b"]).metrics["mean IoU"].value
    assert value == pytest.approx((8 / 11 + 1 / 4) / 2, abs=1e-6)
    per_image = iou(confusions.double()).nanmean(1).mean().item()
    assert abs(value - per_image) > 0.1


def test_segmentation_intervals_equal_scipys_over_images() -> None:
    confusions = counted(*pixels(3, images=30))

    def mean_iou(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        total = np.moveaxis(confusions.numpy()[rows.astype(int)].sum(axis % rows.ndim), 0, 0)
        hit = np.diagonal(total, axis1=-2, axis2=-1)
        union = total.sum(-1) + total.sum(-2) - hit
        return (hit[..., :3] / union[..., :3]).mean(-1)

    reference = stats.bootstrap(
        (np.arange(30.0),), mean_iou, method="percentile", n_resamples=3000, rng=np.random.default_rng(0)
    )
    found = segmentation(confusions, NAMES).metrics["mean IoU"]
    error = 4 * 2.7 * reference.standard_error * (1 / 1000 + 1 / 3000) ** 0.5
    assert ends(found) == pytest.approx([*reference.confidence_interval], abs=error)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    found = segmentation(torch.tensor([[[6, 0, 2], [0, 8, 0], [0, 0, 0]]]), ["a", "b", "c"])
    assert found.per_class == {"a": 0.75, "b": 1.0, "c": 0.0}
    assert found.metrics["mean IoU"].value == pytest.approx(1.75 / 3, abs=1e-6)


def test_fully_ignored_images_leave_intervals_finite() -> None:
    one = torch.tensor([[3, 1], [0, 4]])
    found = segmentation(torch.stack([one, one, torch.zeros_like(one), torch.zeros_like(one)]), ["a", "b"])
    assert json.loads(json.dumps(found.entry(), allow_nan=False)) == found.entry()
    assert found.metrics["pixel accuracy"] == Estimate(0.875, 0.875, 0.875)
    assert ends(found.metrics["mean IoU"]) == [0.775, 0.775]
