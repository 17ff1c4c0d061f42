"""The linear probe equals scikit-learn's logistic regression, and selects its penalty without the test split."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.contracts import InputError
from simmim_pl.data.source import InMemory
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import RawPixels
from simmim_pl.evaluation.protocol import Result
from simmim_pl.evaluation.protocols.linear import GIVE_UP, LinearProbe, moments, probe

Labelled = tuple[Tensor, Tensor]
BINARY = ["no", "yes"]


def context_of(train: Labelled, validation: Labelled, test: Labelled, classes: int, seed: int = 0) -> EvaluationContext:
    """A context with given features, so that no encoder is called."""
    known = {"train": train, "validation": validation, "test": test}
    splits = {
        name: Subset(InMemory(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels), range(len(labels)))
        for name, (_, labels) in known.items()
    }
    data = SimpleNamespace(source=SimpleNamespace(classes=[f"class {c}" for c in range(classes)]), splits=splits)
    return EvaluationContext(RawPixels(), data, "given", torch.device("cpu"), nullcontext, seed, known=known)


def clusters(seed: int, number: int, width: int = 6, classes: int = 3, spread: float = 1.0) -> Labelled:
    """Overlapping Gaussians with the same centres for every seed, features of unequal scale and offset."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(number) % classes
    noise = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return (centres[labels] + spread * noise) * torch.linspace(0.5, 2, width) + 0.3, labels


def overfitting() -> tuple[Labelled, Labelled, Labelled]:
    """One feature of forty separates two classes, and a fifth of train is mislabelled: weak penalties overfit."""

    def part(seed: int, number: int) -> Labelled:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(number) % 2
        features = torch.randn(number, 40, generator=generator)
        features[:, 0] = 2.0 * labels - 1 + 0.5 * features[:, 0]
        return features, labels

    train, labels = part(1, 100)
    return (train, torch.where(torch.arange(100) % 5 < 1, 1 - labels, labels)), part(2, 400), part(3, 400)


def scikit(l2: float, number: int, classes: int) -> LogisticRegression:
    """Our objective with scikit-learn; for two classes it penalises the difference of our two vectors."""
    return LogisticRegression(C=(2 if classes == 2 else 1) / (l2 * number), tol=1e-10, max_iter=100_000)


def accuracy(result: Result) -> float:
    value: float = result.metrics["accuracy"].value
    return value


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_accuracy_and_confusion_equal_a_scikit_learn_pipeline(classes: int) -> None:
    train, validation, test = (clusters(seed, 150, classes=classes, spread=1.2) for seed in (6, 7, 8))
    (result,) = LinearProbe(l2=[0.1, 0.01, 0.001]).evaluate(context_of(train, validation, test, classes))
    scaler = StandardScaler().fit(train[0])
    swept = {
        l2: make_pipeline(scaler, scikit(l2, 150, classes)).fit(*train).score(*validation) for l2 in (0.1, 0.01, 0.001)
    }
    shown = {float(l2): value for l2, value in result.chosen["validation accuracy by l2"].items()}
    assert shown == pytest.approx({l2: swept[l2] for l2 in shown}, abs=1e-6)
    assert result.chosen["l2"] == max(shown, key=lambda l2: (swept[l2], l2))  # of equals the strongest
    both = scaler.transform(torch.cat([train[0], validation[0]])), torch.cat([train[1], validation[1]])
    model = scikit(result.chosen["l2"], 300, classes).fit(*both)
    expected = model.predict(scaler.transform(test[0]))
    assert result.confusion == confusion_matrix(test[1], expected).tolist()
    assert accuracy(result) == pytest.approx((expected == test[1].numpy()).mean(), abs=1e-6)
    assert result.per_class.keys() == {f"class {c}" for c in range(classes)}


@pytest.mark.filterwarnings("error")
def test_a_strong_penalty_is_fitted_exactly_after_weak_ones() -> None:
    features, labels = clusters(6, 90, spread=1.2)
    held = torch.arange(90) % 5 == 0
    train, validation = (features[~held], labels[~held]), (features[held], labels[held])
    test = clusters(8, 150)
    result = probe(train, validation, test, ["a", "b", "c"], [0.1, 1e-7])
    assert result.chosen["l2"] == 0.1
    scaler = StandardScaler().fit(train[0])
    both = scaler.transform(torch.cat([train[0], validation[0]])), torch.cat([train[1], validation[1]])
    assert accuracy(result) == pytest.approx(scikit(0.1, 90, 3).fit(*both).score(scaler.transform(test[0]), test[1]))


def folded(folds: list[Tensor]) -> EvaluationContext:
    """Ninety items, of which every fifth is held out; one class is more frequent than the others."""
    features, labels = clusters(6, 90, spread=1.2)
    images = InMemory(torch.zeros(90, 3, 1, 1, dtype=torch.uint8), labels)
    held = torch.arange(90) % 5 == 0
    context = context_of((features[~held], labels[~held]), (features[held], labels[held]), clusters(8, 150), 3)
    for name, rows in (("train", ~held), ("validation", held)):
        context.data.splits[name] = Subset(images, rows.nonzero().squeeze(1).tolist())
    context.data.source.folds, context.data.source.name = folds, "given"
    return context


def test_folds_are_separate_probes_with_mean_and_standard_deviation() -> None:
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    folds = [order[:40], order[40:75], order[20:60]]  # which overlap, as STL-10's do
    (result,) = LinearProbe(l2=[0.1, 0.01], folds=True).evaluate(folded(folds))
    features, labels = clusters(6, 90, spread=1.2)
    alone = []
    for fold in folds:
        held, kept = fold[fold % 5 == 0], fold[fold % 5 > 0]
        parts = [(features[rows.sort().values], labels[rows.sort().values]) for rows in (kept, held)]
        alone.append(probe(*parts, clusters(8, 150), ["a", "b", "c"], [0.1, 0.01]))
    assert result.chosen["accuracy by fold"] == pytest.approx([accuracy(each) for each in alone], abs=1e-6)
    assert result.chosen["by fold"] == [each.chosen for each in alone]
    assert len({accuracy(each) for each in alone}) > 1
    assert accuracy(result) == pytest.approx(np.mean([accuracy(each) for each in alone]), abs=2e-6)
    spread = result.metrics["accuracy"].std
    assert spread == pytest.approx(np.std([accuracy(each) for each in alone], ddof=1), abs=2e-6)
    assert result.variant == "3 folds"


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ([], "given defines no folds: leave out folds"),
        ([torch.arange(90), torch.tensor([1, 2, 3])], "Fold 1 of given has no validation image"),
        ([torch.arange(0, 90, 5)], "Fold 0 of given has no train image"),
    ],
)
def test_missing_folds_and_empty_validation_folds_are_reported(folds: list[Tensor], says: str) -> None:
    with pytest.raises(InputError, match=says):
        LinearProbe(folds=True).evaluate(folded(folds))


def test_the_selected_penalty_is_refitted_on_train_and_validation() -> None:
    # In train the first feature occurs only with class 0; where it is large, only validation has the right class.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(120, 2, generator=generator)
    labels = torch.arange(60) % 2
    train = noise[:60] * 0.3 + torch.stack([torch.zeros(60), 2.0 * labels - 1], 1), labels
    validation = noise[60:] * 0.3 + torch.tensor([8.0, -1.0]), torch.ones(60, dtype=torch.int64)
    test = torch.tensor([[8.0, -1.0], [0.0, -1.0], [0.0, 1.0]]), torch.tensor([1, 0, 1])
    result = probe(train, validation, test, BINARY, [0.01])
    assert accuracy(result) == 1
    assert result.chosen["validation accuracy by l2"]["0.01"] < 0.5  # train alone gives the wrong class


def test_the_penalty_is_selected_on_validation() -> None:
    train, validation, test = overfitting()
    result = probe(train, validation, test, BINARY, [1.0, 1e-5])
    scaler = StandardScaler().fit(train[0])
    expected = {l2: make_pipeline(scaler, scikit(l2, 100, 2)).fit(*train).score(*validation) for l2 in (1.0, 1e-5)}
    assert expected[1.0] > expected[1e-5] + 0.03  # so candidates differ
    assert result.chosen["l2"] == 1.0
    measured = {float(l2): value for l2, value in result.chosen["validation accuracy by l2"].items()}
    assert measured == pytest.approx(expected, abs=0.01)


def test_validation_with_the_same_label_noise_selects_the_weak_penalty() -> None:
    train, _, test = overfitting()
    result = probe(train, train, test, BINARY, [10.0, 1e-5])
    assert result.chosen["l2"] == 1e-5
    assert result.chosen["validation accuracy by l2"]["10"] < result.chosen["validation accuracy by l2"]["1e-05"] - 0.05


def test_ties_select_the_strongest_penalty() -> None:
    labels = torch.arange(40) % 2
    features = torch.stack([2.0 * labels - 1, torch.linspace(-1, 1, 40)], 1)
    split = features, labels
    (result,) = LinearProbe(l2=[1e-3, 1e-1, 1e-2]).evaluate(context_of(split, split, split, 2))
    assert result.chosen == {"l2": 0.1, "validation accuracy by l2": {"0.1": 1.0, "0.01": 1.0, "0.001": 1.0}}


def test_test_labels_do_not_affect_selection_or_predictions() -> None:
    train, validation, (images, labels) = overfitting()
    first = probe(train, validation, (images, labels), BINARY, [0.3, 1e-2, 1e-4])
    other = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    for asked in (1 - labels, other, torch.zeros_like(labels)):
        again = probe(train, validation, (images, asked), BINARY, [0.3, 1e-2, 1e-4])
        assert again.chosen == first.chosen
        assert torch.tensor(again.confusion).sum(0).tolist() == (  # as often predicted
            torch.tensor(first.confusion).sum(0).tolist()
        )
    turned = probe(train, validation, (images, 1 - labels), BINARY, [0.3, 1e-2, 1e-4])
    assert accuracy(turned) == pytest.approx(1 - accuracy(first), abs=1e-9)


def test_test_images_do_not_affect_selection_or_scaling() -> None:
    train, validation, (images, labels) = overfitting()
    first = probe(train, validation, (images, labels), BINARY, [0.3, 1e-2])
    assert probe(train, validation, (100 * images[:7], labels[:7]), BINARY, [0.3, 1e-2]).chosen == first.chosen
    # Images are classified the same one by one as together.
    right = [
        accuracy(probe(train, validation, (images[i : i + 1], labels[i : i + 1]), BINARY, [0.3])) for i in range(9)
    ]
    assert np.mean(right) == accuracy(probe(train, validation, (images[:9], labels[:9]), BINARY, [0.3]))


@pytest.mark.parametrize("constant", [0.0, 7.0, -1e-3, 0.1])
def test_constant_features_do_not_matter(constant: float) -> None:
    train, validation, test = overfitting()
    first = probe(train, validation, test, BINARY, [0.3, 1e-2])
    flat = [(torch.cat([rows, torch.full((len(rows), 3), constant)], 1), y) for rows, y in (train, validation, test)]
    again = probe(*flat, BINARY, [0.3, 1e-2])
    assert again == first


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_and_offset_of_a_feature_do_not_matter(scale: float) -> None:
    train, validation, test = (clusters(seed, 90) for seed in (1, 2, 3))
    factor = torch.tensor([scale, 1, 1 / scale, 1, 1, 1], dtype=torch.float64)
    first = probe(train, validation, test, ["a", "b", "c"], [0.1, 0.01])
    moved = [(rows * factor + 3 * factor, labels) for rows, labels in (train, validation, test)]
    assert probe(*moved, ["a", "b", "c"], [0.1, 0.01]) == first


def test_the_search_stops_when_validation_gets_worse() -> None:
    train, validation, test = overfitting()
    tried = list(
        probe(train, validation, test, BINARY, [1.0, 1e-4, 1e-5, 1e-6]).chosen["validation accuracy by l2"].values()
    )
    assert len(tried) == 2
    assert tried[-1] < max(tried) - GIVE_UP


def test_the_search_continues_while_validation_is_near_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = overfitting()
    monkeypatch.setattr("simmim_pl.evaluation.protocols.linear.GIVE_UP", 1.0)
    tried = probe(train, validation, test, BINARY, [1.0, 1e-4, 1e-5]).chosen["validation accuracy by l2"]
    assert list(tried) == ["1", "0.0001", "1e-05"]


def test_penalties_are_tried_from_the_strongest_whatever_their_order() -> None:
    splits = overfitting()
    results = [LinearProbe(l2=l2).evaluate(context_of(*splits, 2)) for l2 in ([0.3, 1e-2], [1e-2, 0.3])]
    assert results[0] == results[1]
    assert list(results[0][0].chosen["validation accuracy by l2"]) == ["0.3", "0.01"]


def test_clips_are_evaluated_by_the_mean_of_their_frames() -> None:
    train, validation, test = (clusters(seed, 60) for seed in (1, 2, 3))
    shake = torch.tensor([-5.0, 2.0, 3.0], dtype=torch.float64)[:, None]  # of mean zero
    clips = [(features[:, None] + shake, labels) for features, labels in (train, validation, test)]
    (still,) = LinearProbe(l2=[0.01]).evaluate(context_of(train, validation, test, 3))
    (moving,) = LinearProbe(l2=[0.01]).evaluate(context_of(*clips, 3))
    assert moving == still


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), number=st.integers(2, 50), offset=st.floats(-50, 50, width=32))
def test_moments_equal_scikit_learns_standard_scaler(seed: int, number: int, offset: float) -> None:
    features = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + offset
    features[:, 2] = offset
    mean, scale = moments(features)
    reference = StandardScaler().fit(features)
    np.testing.assert_allclose(mean, reference.mean_, atol=1e-12)
    np.testing.assert_allclose(scale, reference.scale_, rtol=1e-9)
    assert scale[2] == 1


def test_an_empty_validation_split_is_refused() -> None:
    train, _, test = overfitting()
    nothing: Any = train[0][:0], train[1][:0]
    with pytest.raises(InputError, match="The validation split is empty, and this evaluation selects on it"):
        LinearProbe().evaluate(context_of(train, nothing, test, 2))


@pytest.mark.parametrize("l2", [[], [0.0], [0.1, -1e-3]])
def test_penalties_that_are_not_positive_are_refused(l2: list[float]) -> None:
    with pytest.raises(InputError, match=r"l2 has to be above 0|needs at least one penalty"):
        LinearProbe(l2=l2)
