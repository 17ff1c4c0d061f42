"""The augmented probe is plain SGD on views of training images, and selects nothing on test."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, InputError, Views
from simmim_pl.data import ImageDataModule, Shapes, ShapesClips
from simmim_pl.data.source import InMemory
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import AugmentedProbe
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.protocols.augmented import predict, zero_linear
from simmim_pl.evaluation.training import LRSearch
from simmim_pl.views import CropFlip

STILL = CropFlip(scale=(1, 1), ratio=(1, 1), flip=0)  # views that are the image
LRS, EPOCHS, BATCH = (0.3, 3.0), 3, 16


class Altered(Shapes):
    """Shapes with a changed test split."""

    def __init__(self, images: bool, labels: bool) -> None:
        super().__init__(train=100, test=60, size=16, copies=1)
        self.altered = images, labels

    def load(self, split: str) -> InMemory:
        found = super().load(split)
        if split == "train":
            return found
        images, labels = (
            part.flip(0) if alter else part
            for part, alter in zip((found.images, found.labels), self.altered, strict=True)
        )
        return InMemory(255 - images if self.altered[0] else images, labels)


def encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FastCNN(2).requires_grad_(False).eval()


def context(seed: int = 0, images: bool = False, labels: bool = False) -> EvaluationContext:
    data = ImageDataModule(Altered(images, labels), batch_size=BATCH, validation=20)
    data.setup("fit")
    data.setup("test")
    return EvaluationContext(encoder(), data, "given", torch.device("cpu"), nullcontext, seed)


def standardised(on: EvaluationContext) -> dict[str, tuple[Tensor, Tensor]]:
    """Features and labels of each split, computed with the encoder only."""
    found = {}
    for split in ("train", "validation", "test"):
        subset = on.data.splits[split]
        index = torch.tensor(list(subset.indices))
        found[split] = on.encoder(subset.dataset.images[index] / 255).pooled, subset.dataset.labels[index]
    mean, std = found["train"][0].mean(0), found["train"][0].std(0, correction=0)
    return {split: ((features - mean) / std, labels) for split, (features, labels) in found.items()}


def by_hand(on: EvaluationContext, lr: float) -> list[nn.Linear]:
    """Multinomial logistic regression by SGD on the images themselves; the classifier after each epoch."""
    features, labels = standardised(on)["train"]
    steps = -(-len(labels) // BATCH)
    layer = nn.Linear(features.shape[1], 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr * BATCH / 256, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    after = []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(on.seed + epoch))
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
            cosine.step()
        after.append(zero_linear(features.shape[1], 10))
        after[-1].load_state_dict(layer.state_dict())
    return after


def confusion(layer: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    counts = torch.zeros(10, 10)
    for truth, guess in zip(labels, layer(features).argmax(1), strict=True):
        counts[truth, guess] += 1
    return counts


def evaluate(on: EvaluationContext, views: Views = STILL) -> dict[str, Any]:
    (result,) = AugmentedProbe(views, LRSearch(LRS, epochs=EPOCHS)).evaluate(on)
    return {**result.entry(), **result.chosen}


def test_with_identity_views_it_is_logistic_regression_by_sgd() -> None:
    on = context(seed=4)
    found, sets = evaluate(on), standardised(on)
    after = {lr: by_hand(on, lr) for lr in LRS}
    accuracy = {
        lr: (layers[-1](sets["validation"][0]).argmax(1) == sets["validation"][1]).double().mean().item()
        for lr, layers in after.items()
    }
    assert found["validation accuracy by lr"] == pytest.approx({f"{lr:g}": value for lr, value in accuracy.items()})
    assert found["lr"] == max(accuracy, key=accuracy.__getitem__)
    first, *_, last = (confusion(layer, *sets["test"]) for layer in after[found["lr"]])
    assert found["confusion"] == last.tolist()
    assert not torch.equal(first, last)  # otherwise an earlier epoch could be mistaken for the last
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(last.diagonal().sum().item() / 60, abs=1e-6)


def test_test_labels_change_only_the_score() -> None:
    one, other = evaluate(context()), evaluate(context(labels=True))
    assert one["lr"] == other["lr"]
    assert one["validation accuracy by lr"] == other["validation accuracy by lr"]
    predicted, again = (torch.tensor(found["confusion"]).sum(0) for found in (one, other))
    assert torch.equal(predicted, again)
    assert one["confusion"] != other["confusion"]


def test_test_images_do_not_affect_the_learning_rate() -> None:
    one, other = evaluate(context()), evaluate(context(images=True))
    assert one["lr"] == other["lr"]
    assert one["validation accuracy by lr"] == other["validation accuracy by lr"]


class Recording(Views):
    """Random views that record their generators' seeds and the encoder's state."""

    def __init__(self, watched: nn.Module) -> None:
        super().__init__()
        self.drawn: list[int] = []
        self.states: set[tuple[str, bool, bool]] = set()
        self.watched = [watched]  # in a list, so that it is no part of this module
        self.views = CropFlip()

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        (watched,) = self.watched
        self.drawn.append(generator.initial_seed())
        parts = list(watched.modules())
        free = any(parameter.requires_grad for parameter in watched.parameters())
        self.states.add((digest(watched), any(part.training for part in parts), free))
        return self.views(image, generator)


def test_the_encoder_is_frozen_throughout() -> None:
    on = context()
    before = digest(on.encoder)
    views = Recording(on.encoder)
    evaluate(on, views)
    assert views.states == {(before, False, False)}
    assert digest(on.encoder) == before
    assert all(parameter.grad is None for parameter in on.encoder.parameters())


def test_every_step_has_its_own_seeded_views() -> None:
    drawn = []
    for seed in (0, 0, 1):
        on = context(seed)
        views = Recording(on.encoder)
        evaluate(on, views)
        drawn.append(views.drawn)
    assert len(set(drawn[0])) == EPOCHS * 5
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_the_classifier_is_trained_on_views() -> None:
    assert evaluate(context())["confusion"] != evaluate(context(), CropFlip(scale=(0.1, 0.2)))["confusion"]


def test_all_items_are_predicted_over_several_blocks() -> None:
    layer = nn.Linear(3, 5)
    features = torch.randn(5000, 3)
    assert torch.equal(predict(layer, features), layer(features).argmax(1))


def test_a_classifier_starts_with_equal_probabilities() -> None:
    probability = zero_linear(3, 5)(torch.randn(4, 3)).softmax(1)
    torch.testing.assert_close(probability, torch.full((4, 5), 0.2))


def test_clips_and_an_empty_validation_split_are_refused() -> None:
    sizes = {"train": 20, "test": 20, "size": 16, "copies": 1}
    for source, held_out, message in (
        (ShapesClips(**sizes, frames=2), 5, "holds clips"),
        (Shapes(**sizes), 0, "The validation split is empty"),
    ):
        data = ImageDataModule(source, batch_size=BATCH, validation=held_out, workers=0)
        data.setup("fit")
        data.setup("test")
        with pytest.raises(InputError, match=message):
            evaluate(EvaluationContext(encoder(), data, "given", torch.device("cpu"), nullcontext))
