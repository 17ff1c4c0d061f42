"""The dense probe: confusions equal scikit-learn's, moments torch's, and masks given by colour are learned."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.data.source import InMemory, Source
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import DenseProbe
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import RawPixels, digest
from simmim_pl.evaluation.protocols.dense import Pixels, confusions, feature_map_moments
from simmim_pl.evaluation.training import LRSearch
from tests.evaluation.test_estimate import OnMps


class Coloured(Source):
    """Every pixel has a random colour, and its class is its redness. Every fifth pixel is ignored.

    The masks of ``test`` can be wrong.
    """

    def __init__(self, truthful: bool = True, train: int = 28) -> None:
        self.classes: list[str] = []  # a data set with masks needs no labels
        self.mask_classes = ["grey", "pink", "red"]
        self.truthful, self.train = truthful, train

    def load(self, split: str) -> InMemory:
        generator = torch.Generator().manual_seed(len(split))
        number = {"train": self.train, "test": 13}[split]
        mask = torch.randint(3, (number, 6, 6), generator=generator)
        image = torch.randint(0, 256, (number, 3, 6, 6), generator=generator)
        image[:, 0] = image[:, 0] % 60 + 90 * mask
        if split == "test" and not self.truthful:
            mask = (mask + 1) % 3
        mask.view(-1)[::5] = 255
        return InMemory(image.to(torch.uint8), None, mask.to(torch.uint8))


class Flat(Encoder):
    """The same features at every position of every image."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(len(values), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stride=4)
        self.values = values

    def forward(self, image: Tensor) -> Features:
        grid = self.values[:, None, None].expand(len(image), -1, 3, 3)
        return Features(pooled=grid.mean((2, 3)), feature_map=grid)


def context(encoder: Encoder, source: Source | None = None, validation: int = 8) -> EvaluationContext:
    data = ImageDataModule(source or Coloured(), batch_size=8, validation=validation)
    data.setup("fit")
    data.setup("test")
    return EvaluationContext(encoder.requires_grad_(False).eval(), data, "given", torch.device("cpu"), nullcontext)


def small_cnn() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FastCNN(2)


def evaluate(on: EvaluationContext, lr: tuple[float, ...] = (0.003, 30.0), epochs: int = 20) -> dict[str, Any]:
    (result,) = DenseProbe(LRSearch(lr, "adam", epochs=epochs)).evaluate(on)
    return {**result.entry(), **result.chosen}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31))
def test_confusions_equal_scikit_learn_without_ignored_pixels(number: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(classes, (number, 4, 5), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    predicted = torch.randint(classes, (number, 4, 5), generator=generator)
    found = confusions(predicted, {"mask": mask.to(torch.uint8)}, classes)
    assert found.shape == (number, classes, classes)
    for truth, guess, counts in zip(mask, predicted, found, strict=True):
        kept = truth != 255
        if kept.any():
            expected = confusion_matrix(truth[kept], guess[kept], labels=range(classes))
            assert counts.tolist() == expected.tolist()
        else:
            assert not counts.any()


def test_moments_are_over_all_positions_of_all_training_images() -> None:
    on = context(small_cnn(), Shapes(train=50, test=20, size=16, copies=1))
    mean, scale = feature_map_moments(on)
    train = on.data.splits["train"]
    grid = on.encoder(train.dataset.images[list(train.indices)] / 255).feature_map
    assert len(grid) % 8  # the last batch is smaller, and its images have the same weight
    torch.testing.assert_close(mean, grid.mean((0, 2, 3))[:, None, None], atol=1e-5, rtol=1e-5)
    std = grid.std((0, 2, 3), correction=0)
    torch.testing.assert_close(scale, torch.where(std > 0, std, 1.0)[:, None, None], atol=1e-5, rtol=1e-5)


class Half(RawPixels):
    """Raw pixels with a constant first channel."""

    def forward(self, image: Tensor) -> Features:
        grid = image.clone()
        grid[:, 0] = 0.9297989
        return Features(pooled=grid.flatten(1), feature_map=grid)


def test_a_constant_channel_is_not_scaled_up() -> None:
    mean, scale = feature_map_moments(context(Half()))
    assert scale[0].item() == 1
    assert mean[0].item() == pytest.approx(0.9297989)
    assert 0.1 < scale[1].item() < 0.5


def test_a_constant_feature_map_is_refused_despite_rounding() -> None:
    values = torch.rand(500, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="the same at every place of all images"):
        evaluate(context(Flat(values), Coloured(train=328)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_feature_map_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite features"):
        evaluate(context(Flat(torch.tensor([0.1, value]))))


def test_a_mask_given_by_pixel_colour_is_learned_from_raw_pixels() -> None:
    on = context(RawPixels())
    found = evaluate(on, (30.0,))
    assert found["metrics"]["mean IoU"]["value"] > 0.97
    assert found["metrics"]["pixel accuracy"]["value"] > 0.97
    assert found["per_class"].keys() == {"grey", "pink", "red"}
    masks = on.data.splits["test"].dataset.masks
    assert torch.tensor(found["confusion"]).sum(1).tolist() == masks[masks != 255].long().bincount().tolist()


def test_the_learning_rate_is_selected_on_validation_not_on_test() -> None:
    one, other = (evaluate(context(RawPixels(), Coloured(truthful))) for truthful in (True, False))
    tried = one["validation mean IoU by lr"]
    assert list(tried) == ["0.003", "30"]
    assert tried["30"] > tried["0.003"] + 0.1
    assert one["lr"] == other["lr"] == 30
    assert tried == other["validation mean IoU by lr"]
    assert other["metrics"]["mean IoU"]["value"] < 0.1


def test_predictions_are_the_argmax_of_upsampled_logits() -> None:
    head = Pixels(3, 4, (9, 7))
    torch.nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(0))
    grid = torch.randn(2, 3, 4, 5)
    logits = torch.einsum("cd,bdhw->bchw", head.classifier.weight[:, :, 0, 0], grid)
    expected = F.interpolate(logits, (9, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(grid), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(torch.zeros(1, 3, 4, 5)), torch.zeros(1, 4, 9, 7))


def test_a_classifier_starts_at_zero() -> None:
    assert not Pixels(3, 4, (8, 8))(torch.randn(2, 3, 2, 2)).any()


def test_a_coarse_feature_map_is_evaluated_at_mask_resolution() -> None:
    on = context(small_cnn(), Shapes(train=50, test=20, size=16, copies=1))
    before = digest(on.encoder)
    found = evaluate(on, epochs=1)
    assert torch.tensor(found["confusion"]).sum().item() == 20 * 16 * 16
    assert found["per_class"].keys() == {"background", *Shapes().classes}
    assert digest(on.encoder) == before
    assert not any(part.training for part in on.encoder.modules())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_fully_ignored_masks_are_refused(split: str) -> None:
    on = context(RawPixels())
    images = on.data.splits[split]
    images.dataset.masks[list(images.indices)] = 255
    with pytest.raises(InputError, match=f"In the masks of {split} every pixel is ignored"):
        evaluate(on, epochs=1)


class WithoutFloat64(RawPixels):
    """Raw pixels on a device without float64."""

    def forward(self, image: Tensor) -> Features:
        grid = image.as_subclass(OnMps)
        return Features(pooled=grid.flatten(1), feature_map=grid)


def test_a_device_without_float64_gives_the_same() -> None:
    assert evaluate(context(WithoutFloat64()), epochs=1) == evaluate(context(RawPixels()), epochs=1)


def test_data_without_masks_and_an_empty_validation_split_are_refused() -> None:
    plain = Coloured()
    plain.mask_classes = []
    with pytest.raises(InputError, match="Coloured has no masks"):
        evaluate(context(RawPixels(), plain))
    with pytest.raises(InputError, match="The validation split is empty"):
        evaluate(context(RawPixels(), validation=0))
