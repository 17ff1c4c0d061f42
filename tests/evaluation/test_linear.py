"""The linear probe is scikit-learn's logistic regression, and chooses its penalty without a look at test."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import LinearProbe
from simmim_pl.evaluation.linear import logistic_regression

Labelled = tuple[Tensor, Tensor]


def clusters(seed: int, number: int, width: int = 6, classes: int = 3, spread: float = 1.0) -> Labelled:
    """Overlapping Gaussians about the same centres for every seed, features of unequal scale and offset."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(number) % classes
    noise = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return (centres[labels] + spread * noise) * torch.linspace(0.5, 2, width) + 0.3, labels


def scikit(features: Any, labels: Tensor, l2: float) -> LogisticRegression:
    """Our objective in scikit-learn's terms: of two classes it penalises the difference of our two vectors, once."""
    factor = 2 if len(labels.unique()) == 2 else 1
    c = factor / (l2 * len(labels))
    return LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(np.asarray(features, np.float64), labels)


def probe(**options: Any) -> LinearProbe:
    return LinearProbe(encoder=FastCNN(2), baselines=False, **options)


@pytest.mark.parametrize("l2", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_regression_equals_scikit_learn(l2: float, classes: int) -> None:
    features, labels = clusters(1, 90, classes=classes)
    weight, bias = logistic_regression(features, labels, classes, l2, iterations=5000)
    reference = scikit(features, labels, l2)
    # The softmax is blind to a vector added to every class.
    weight, bias = (part - part.mean(-1, keepdim=True) for part in (weight, bias))
    coef, intercept = reference.coef_, reference.intercept_
    if classes == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    # L-BFGS stops when the objective falls by less than 1e-10: in the flattest direction that is √(2e-10 / l2) at most.
    tolerance = max((2e-10 / l2) ** 0.5, 1e-4)
    np.testing.assert_allclose(weight.T, coef, atol=tolerance)
    np.testing.assert_allclose(bias, intercept, atol=tolerance)
    queries, _ = clusters(2, 200, classes=classes)
    logits = queries @ weight + bias
    np.testing.assert_allclose(logits.softmax(1), reference.predict_proba(queries), atol=1e-4)
    assert logits.argmax(1).tolist() == reference.predict(queries).tolist()


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_gradient_at_the_solution_is_zero(l2: float) -> None:
    features, labels = clusters(3, 60)
    weight, bias = (part.requires_grad_() for part in logistic_regression(features, labels, 3, l2))
    chosen = (features @ weight + bias).log_softmax(1)[torch.arange(60), labels]
    (l2 / 2 * weight.square().sum() - chosen.mean()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 2e-6


def test_a_stronger_penalty_gives_smaller_weights_and_leaves_the_bias_free() -> None:
    features, labels = clusters(4, 60)
    labels = labels * (torch.arange(60) % 4 > 0)  # class 0 is the most frequent
    norms = [logistic_regression(features, labels, 3, l2)[0].norm().item() for l2 in (1e-3, 1e-1, 1e3)]
    assert norms == sorted(norms, reverse=True)
    weight, bias = logistic_regression(features, labels, 3, 1e6, iterations=5000)
    assert weight.abs().max() < 1e-5
    torch.testing.assert_close(bias.softmax(0), labels.bincount() / 60.0, atol=1e-4, rtol=0, check_dtype=False)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_a_warm_start_gives_the_answer_of_a_cold_one(l2: float) -> None:
    features, labels = clusters(5, 90)
    start = logistic_regression(features, labels, 3, 1.0)
    before = [part.clone() for part in start]
    cold = logistic_regression(features, labels, 3, l2, iterations=5000)
    warm = logistic_regression(features, labels, 3, l2, start, iterations=5000)
    for one, other in zip(warm, cold, strict=True):
        one, other = one - one.mean(-1, keepdim=True), other - other.mean(-1, keepdim=True)
        torch.testing.assert_close(one, other, atol=2 * (2e-10 / l2) ** 0.5, rtol=0)
    assert (start[0] - cold[0]).abs().max() > 0.1  # there was a way to go
    assert all(torch.equal(*pair) for pair in zip(before, start, strict=True))  # what is given is not written to


def overfitting() -> tuple[Labelled, Labelled, Labelled]:
    """One feature of forty tells the classes apart, and a fifth of train is mislabelled: weak penalties overfit."""

    def part(seed: int, number: int) -> Labelled:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(number) % 2
        features = torch.randn(number, 40, generator=generator)
        features[:, 0] = 2.0 * labels - 1 + 0.5 * features[:, 0]
        return features, labels

    train, labels = part(1, 100)
    return (train, torch.where(torch.arange(100) % 5 < 1, 1 - labels, labels)), part(2, 400), part(3, 400)


def test_the_penalty_is_the_one_validation_prefers() -> None:
    train, validation, test = overfitting()
    _, chosen = probe(l2=[1e-5, 1.0]).judge(train, validation, test, 2)
    scaler = StandardScaler().fit(train[0])
    standard = [scaler.transform(rows[0]) for rows in (train, validation)]
    accuracy = {l2: scikit(standard[0], train[1], l2).score(standard[1], validation[1]) for l2 in (1.0, 1e-5)}
    assert accuracy[1.0] > accuracy[1e-5] + 0.03  # so this is a choice
    assert chosen["l2"] == 1.0
    measured = {float(l2): value for l2, value in chosen["validation accuracy by l2"].items()}
    assert measured == pytest.approx(accuracy, abs=0.01)


def test_a_validation_split_like_train_in_its_mistakes_prefers_the_weak_penalty() -> None:
    train, _, test = overfitting()
    _, chosen = probe(l2=[10.0, 1e-5]).judge(train, train, test, 2)
    assert chosen["l2"] == 1e-5
    assert chosen["validation accuracy by l2"]["10"] < chosen["validation accuracy by l2"]["1e-05"] - 0.05


def test_test_labels_change_nothing_that_is_chosen_or_scored() -> None:
    train, validation, (images, labels) = overfitting()
    module = probe(l2=[0.3, 1e-2, 1e-4])
    scores, chosen = module.judge(train, validation, (images, labels), 2)
    for other in (1 - labels, labels[torch.randperm(len(labels))], torch.zeros_like(labels)):
        again, choice = module.judge(train, validation, (images, other), 2)
        assert torch.equal(again, scores)
        assert choice == chosen


def test_test_images_change_nothing_that_is_chosen() -> None:
    train, validation, (images, labels) = overfitting()
    module = probe(l2=[0.3, 1e-2])
    scores, chosen = module.judge(train, validation, (images, labels), 2)
    half, choice = module.judge(train, validation, (100 * images[:7], labels[:7]), 2)
    assert choice == chosen
    assert len(half) == 7
    alone, _ = module.judge(train, validation, (images[:1], labels[:1]), 2)
    torch.testing.assert_close(alone, scores[:1])  # not standardised by test


@pytest.mark.parametrize("constant", [0.0, 7.0, -1e-3])
def test_constant_features_do_no_harm(constant: float) -> None:
    train, validation, test = overfitting()
    module = probe(l2=[0.3, 1e-2])
    scores, chosen = module.judge(train, validation, test, 2)
    flat = [(torch.cat([rows, torch.full((len(rows), 3), constant)], 1), y) for rows, y in (train, validation, test)]
    again, choice = module.judge(*flat, 2)
    assert again.isfinite().all()
    torch.testing.assert_close(again, scores, atol=1e-3, rtol=1e-3)
    assert choice == chosen


def test_the_sweep_stops_when_validation_gets_worse() -> None:
    train, validation, test = overfitting()
    _, chosen = probe(l2=[1.0, 1e-4, 1e-5, 1e-6]).judge(train, validation, test, 2)
    tried = list(chosen["validation accuracy by l2"].values())
    assert len(tried) == 2
    assert tried[-1] < max(tried) - 0.01


def test_accuracy_equals_a_pipeline_of_scikit_learns() -> None:
    train, validation, test = (clusters(seed, 150, spread=1.2) for seed in (6, 7, 8))
    scores, chosen = probe().judge(train, validation, test, 3)
    scaler = StandardScaler().fit(train[0])
    both = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
    # Bessel's correction in our standard deviation is a factor of √(149/150) on every feature.
    correction = (149 / 150) ** 0.5
    model = scikit(scaler.transform(both[0]) * correction, both[1], chosen["l2"])
    expected = model.predict_proba(scaler.transform(test[0]) * correction)
    np.testing.assert_allclose(scores.softmax(1), expected, atol=1e-3)
    assert (scores.argmax(1) == test[1]).double().mean().item() == model.score(scaler.transform(test[0]), test[1])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (chosen["l2"] * 300), max_iter=10_000)).fit(*both)
    assert (scores.argmax(1) == test[1]).double().mean().item() == pytest.approx(plain.score(*test), abs=0.02)
