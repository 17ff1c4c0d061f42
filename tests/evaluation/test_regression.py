"""Logistic regression has scikit-learn's weights at the same penalty, whatever the solver."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression as Reference
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.data import Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation.protocols.linear import LinearProbe, moments
from simmim_pl.evaluation.regression import LogisticRegression, Weights, principal_axes
from simmim_pl.losses import nt_xent
from simmim_pl.views import ContrastiveViews
from tests.evaluation.protocols.test_linear import Labelled, clusters

TIGHT: Any = {"tolerance": 1e-15}


def scikit(features: Tensor, labels: Tensor, l2: float) -> Reference:
    """Our objective with scikit-learn; for two classes it penalises the difference of our two vectors."""
    factor = 2 if len(labels.unique()) == 2 else 1
    exact = Reference(C=factor / (l2 * len(labels)), tol=1e-10, max_iter=1000, solver="newton-cholesky")
    return exact.fit(features.double(), labels)


def by_class(reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[C, D]`` and biases of scikit-learn's model, with mean zero over classes; two rows for two classes."""
    coef, intercept = reference.coef_, reference.intercept_
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return coef - coef.mean(0), intercept - intercept.mean()


def centred(weights: Weights) -> Weights:
    """The softmax ignores a vector added to every class: subtract the mean."""
    weight, bias = weights
    return weight - weight.mean(-1, keepdim=True), bias - bias.mean()


def gradient(features: Tensor, labels: Tensor, weights: Weights, l2: float) -> float:
    """The largest entry of the objective's gradient, in the unscaled weights."""
    weight, bias = (part.clone().requires_grad_() for part in weights)
    (F.cross_entropy(features @ weight + bias, labels) + l2 / 2 * weight.square().sum()).backward()
    return max(part.grad.abs().max().item() for part in (weight, bias) if part.grad is not None)


def few_and_wide(seed: int, number: int, width: int = 24, classes: int = 3) -> Labelled:
    """Fewer images than features."""
    return clusters(seed, number, width, classes, spread=2.0)


def check(draw: Any, number: int, classes: int, l2: float) -> None:
    """Compare a fit with scikit-learn's."""
    features, labels = draw(1, number, classes=classes)
    regression = LogisticRegression(features, labels, classes)
    assert regression.axes.shape == (features.shape[1], min(features.shape))
    weights = regression.fit(l2, **TIGHT)
    reference = scikit(features, labels, l2)
    coef, intercept = by_class(reference)
    weight, bias = centred(weights)
    np.testing.assert_allclose(weight.T, coef, atol=1e-5)
    np.testing.assert_allclose(bias, intercept, atol=1e-5)
    queries, asked = draw(2, 100, classes=classes)
    logits = queries @ weights[0] + weights[1]
    np.testing.assert_allclose(logits.softmax(1), reference.predict_proba(queries), atol=1e-5)
    assert (logits.argmax(1) == asked).double().mean().item() == reference.score(queries, asked)


@pytest.mark.parametrize("l2", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_weights_biases_and_predictions_equal_scikit_learn(classes: int, l2: float) -> None:
    check(clusters, 60, classes, l2)


@pytest.mark.parametrize(("classes", "l2"), [(2, 1.0), (3, 1e-1), (3, 1e-2), (2, 1e-3)])
def test_weights_equal_scikit_learn_with_fewer_images_than_features(classes: int, l2: float) -> None:
    check(few_and_wide, 16, classes, l2)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_float32_and_the_default_tolerance_predict_like_scikit_learn(l2: float) -> None:
    features, labels = clusters(1, 90)
    weight, bias = LogisticRegression(features.float(), labels, 3).fit(l2)
    assert weight.dtype == bias.dtype == torch.float32
    queries, _ = clusters(2, 200)
    predicted = (queries.float() @ weight + bias).softmax(1)
    # The objective is within 1e-7 of its minimum: with curvature l2 the weights are within √(2e-7 / l2) at worst.
    np.testing.assert_allclose(predicted, scikit(features, labels, l2).predict_proba(queries), atol=1e-4)


@pytest.mark.parametrize("l2", [1.0, 1e-1, 1e-3])
@pytest.mark.parametrize("draw", [clusters, few_and_wide])
def test_the_gradient_at_the_solution_is_zero(draw: Any, l2: float) -> None:
    features, labels = draw(3, 16)
    assert gradient(features, labels, LogisticRegression(features, labels, 3).fit(l2, **TIGHT), l2) < 1e-7
    assert gradient(features, labels, (torch.zeros_like(features[:3].T), torch.zeros(3).double()), l2) > 1e-2


def objective(features: Tensor, labels: Tensor, weights: Weights, l2: float) -> float:
    """The objective in float64 at given weights."""
    weight, bias = (part.double() for part in weights)
    return (F.cross_entropy(features.double() @ weight + bias, labels) + l2 / 2 * weight.square().sum()).item()


@pytest.fixture(scope="module")
def learned() -> Labelled:
    """Standardised features of Shapes by a briefly trained network, which are correlated."""
    images = Shapes(train=800, test=10).load("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = FastCNN(8)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=4e-3)
    views, generator = ContrastiveViews(16), torch.Generator().manual_seed(0)
    for rows in torch.randperm(800, generator=generator)[:480].split(48):
        encoded = encoder(views(images.images[rows], generator).flatten(0, 1)).pooled
        optimizer.zero_grad()
        nt_xent(encoded.view(2, len(rows), -1), 0.2).backward()
        optimizer.step()
    with torch.no_grad():
        features = encoder.eval()(images.images.float() / 255).pooled
    mean, scale = moments(features)
    return (features - mean) / scale, images.labels


def test_every_fit_of_a_search_on_network_features_reaches_the_minimum(learned: Labelled) -> None:
    features, labels = learned
    values = torch.linalg.svdvals(features)
    assert features.dtype == torch.float32
    assert values[0] > 100 * values[-1]  # as ill-conditioned as a network's
    regression, start = LogisticRegression(features, labels, 10), None
    for l2 in (10 ** (-exponent / 2) for exponent in range(2, 12)):  # those of benchmarks/linear_probe.py
        start = regression.fit(l2, start)
        coef, intercept = by_class(scikit(features, labels, l2))
        least = objective(features, labels, (torch.tensor(coef.T), torch.tensor(intercept)), l2)
        assert objective(features, labels, start, l2) - least == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("l2", LinearProbe().l2)
def test_a_fit_from_zero_reaches_the_minimum_at_each_penalty(learned: Labelled, l2: float) -> None:
    features, labels = learned
    fitted = LogisticRegression(features, labels, 10).fit(l2)
    tight = LogisticRegression(features.double(), labels, 10).fit(l2, tolerance=1e-12)
    assert gradient(features.double(), labels, tight, l2) < (2 * l2 * 1e-12) ** 0.5
    assert objective(features, labels, fitted, l2) - objective(features, labels, tight, l2) < 1e-7


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_a_fit_meets_its_tolerance(learned: Labelled, tolerance: float) -> None:
    features, labels = learned
    regression = LogisticRegression(features.double(), labels, 10)
    above = objective(features, labels, regression.fit(1e-4, tolerance=tolerance), 1e-4)
    least = objective(features, labels, regression.fit(1e-4, tolerance=1e-14), 1e-4)
    assert 0 <= above - least <= 2 * tolerance


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_mean_over_classes_stays_zero(learned: Labelled, offset: float) -> None:
    features, labels = learned
    start = (torch.full((features.shape[1], 10), offset), torch.full((10,), offset))
    weight, bias = LogisticRegression(features, labels, 10).fit(1e-4, start, tolerance=1e-9)
    assert weight.mean(1).abs().max() < 1e-6 * weight.abs().max()
    assert bias.mean().abs() < 1e-6 * bias.abs().max()


def test_too_few_iterations_are_a_warning_with_the_remaining_gap(learned: Labelled) -> None:
    regression = LogisticRegression(*learned, 10)
    with pytest.warns(UserWarning, match=r"with l2 0\.001 stopped up to [\d.]+e[-+]\d+ nats above .* from 2,"):
        regression.fit(1e-3, iterations=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regression.fit(1e-3)


def test_a_tolerance_below_rounding_ends_with_a_warning_at_the_minimum() -> None:
    features, labels = clusters(3, 60)
    regression = LogisticRegression(features, labels, 3)
    with pytest.warns(UserWarning, match="nats above its minimum"):
        weights = regression.fit(1e-2, tolerance=1e-40)
    assert gradient(features, labels, weights, 1e-2) < 1e-12


def test_blocks_of_images_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(5, 61)
    whole = LogisticRegression(features, labels, 3).fit(1e-2, **TIGHT)
    monkeypatch.setattr("simmim_pl.evaluation.regression.BLOCK", 50)
    torch.testing.assert_close(LogisticRegression(features, labels, 3).fit(1e-2, **TIGHT), whole)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
@pytest.mark.parametrize("draw", [clusters, few_and_wide])
def test_a_warm_start_gives_the_answer_of_a_cold_one(draw: Any, l2: float) -> None:
    features, labels = draw(5, 16)
    regression = LogisticRegression(features, labels, 3)
    start = regression.fit(1.0)
    before = [part.clone() for part in start]
    cold, warm = regression.fit(l2, **TIGHT), regression.fit(l2, start, **TIGHT)
    for one, other in zip(centred(warm), centred(cold), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    assert (start[0] - cold[0]).abs().max() > 0.02  # the start was not the solution
    assert all(torch.equal(*pair) for pair in zip(before, start, strict=True))  # arguments are not changed


def test_a_start_at_the_solution_does_not_move() -> None:
    features, labels = clusters(5, 60)
    regression = LogisticRegression(features, labels, 3)
    solution = regression.fit(1e-2, **TIGHT)
    stayed = regression.fit(1e-2, solution, iterations=0)
    torch.testing.assert_close(stayed, solution, atol=1e-12, rtol=0)


def test_a_stronger_penalty_gives_smaller_weights_and_leaves_the_bias_free() -> None:
    features, labels = clusters(4, 60)
    labels = labels * (torch.arange(60) % 4 > 0)  # class 0 is the most frequent
    regression = LogisticRegression(features, labels, 3)
    norms = [regression.fit(l2)[0].norm().item() for l2 in (1e-3, 1e-1, 1e3)]
    assert norms == sorted(norms, reverse=True)
    weight, bias = regression.fit(1e6, **TIGHT)
    assert weight.abs().max() < 1e-5
    torch.testing.assert_close(bias.softmax(0), labels.bincount() / 60.0, atol=1e-6, rtol=0, check_dtype=False)


def test_a_class_without_images_is_never_predicted_and_does_not_affect_others() -> None:
    features, labels = clusters(4, 60)
    weight, bias = LogisticRegression(features, 2 * (labels // 2), 3).fit(1e-2, tolerance=1e-9)  # classes 0 and 2 only
    logits = features @ weight + bias
    assert not (logits.argmax(1) == 1).any()
    reference = scikit(features, labels // 2, 1e-2)
    np.testing.assert_allclose(logits.softmax(1)[:, [0, 2]], reference.predict_proba(features), atol=1e-3)


def test_fitting_works_without_gradients_and_leaves_none() -> None:
    features, labels = clusters(4, 30)
    with torch.no_grad():
        weight, bias = LogisticRegression(features, labels, 3).fit(1e-1)
    assert weight.abs().max() > 0.1
    assert not weight.requires_grad
    assert not bias.requires_grad


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 40),
    width=st.integers(1, 40),
    rank=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_axes_are_orthonormal_and_reproduce_the_second_moment(
    seed: int, number: int, width: int, rank: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    exact: Any = {"generator": generator, "dtype": torch.float64}
    features = (torch.randn(number, rank, **exact) @ torch.randn(rank, width, **exact) / rank**0.5).to(dtype)
    axes, moment = principal_axes(features)
    close = 2e-4 if dtype == torch.float32 else 1e-7
    assert axes.dtype == moment.dtype == dtype
    assert len(moment) <= min(number, width)
    assert moment.min() >= 0
    np.testing.assert_allclose(axes.T @ axes, np.eye(len(moment)), atol=close)
    size = (features.double().square().sum() / number).item()
    np.testing.assert_allclose(axes * moment @ axes.T, features.T @ features / number, atol=close * size)
    # All images are within the axes.
    np.testing.assert_allclose(features @ axes @ axes.T, features, atol=30 * close**0.5 * size**0.5)


def test_moments_equal_a_singular_value_decomposition_for_any_shape() -> None:
    for number, width in ((30, 8), (8, 30), (8, 8)):
        features = torch.randn(number, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        values = np.linalg.svd(features.numpy(), compute_uv=False) ** 2 / number
        np.testing.assert_allclose(principal_axes(features)[1], values[::-1], rtol=1e-9)


def test_empty_axes_of_few_images_are_left_out() -> None:
    features, _ = clusters(0, 10, width=30)
    axes, _ = principal_axes(torch.cat([features, features]))  # 20 images, 10 different
    assert axes.shape == (30, 10)
    weight, bias = LogisticRegression(torch.zeros(4, 9), torch.tensor([0, 0, 0, 1]), 2).fit(1e-2)
    assert weight.tolist() == [[0.0, 0.0]] * 9
    assert bias.softmax(0).tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


def test_few_nearly_identical_images_are_fitted_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained features have directions of almost no variance, which are steep under a weak penalty."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -5, 60)
    features = torch.randn(60, 60, generator=generator) * scales @ torch.randn(60, 80, generator=generator)
    labels = torch.randint(3, (60,), generator=generator)
    known = (features - features.mean(0)) / features.std(0)
    products = []
    curvature = LogisticRegression.curvature
    monkeypatch.setattr(LogisticRegression, "curvature", lambda *args: products.append(1) or curvature(*args))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight, bias = LogisticRegression(known, labels, 3).fit(1 / 60)
    assert len(products) < 1000
    expected = scikit(known.double(), labels, 1 / 60)
    np.testing.assert_allclose((known @ weight + bias).softmax(1), expected.predict_proba(known.double()), atol=1e-3)
