"""Procedural images: what is random, and that only the outline predicts the class."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.sources.shapes import Scene, Shapes, render

CHANCE = 0.1


def small(train: int = 40, test: int = 40, size: int = 16, **options: float) -> Shapes:
    return Shapes(train, test, size, **options)


def posed(scene: Scene) -> Scene:
    """The same outlines without position, size, angle and noise, white on black."""
    return replace(
        scene,
        angle=torch.zeros_like(scene.angle),
        radius=torch.full_like(scene.radius, 0.4),
        centre=torch.zeros_like(scene.centre),
        color=torch.ones_like(scene.color),
        background=torch.zeros_like(scene.background),
        noise_std=torch.zeros_like(scene.noise_std),
    )


def accuracy(model: object, features: Tensor, labels: Tensor) -> float:
    """Accuracy on the second half of the rows of a model fitted on the first half."""
    x, y, half = features.flatten(1).numpy(), labels.numpy(), len(labels) // 2
    return model.fit(x[:half], y[:half]).score(x[half:], y[half:])


def logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=200, tol=1e-3)


def test_only_the_seed_matters() -> None:
    torch.manual_seed(1)
    first = small(seed=3)
    images, masks = first.load("train").images, first.load("train").masks
    torch.manual_seed(2)
    again = small(seed=3)
    assert torch.equal(again.load("train").images, images)
    assert torch.equal(first.load("train").images, images)
    assert torch.equal(again.load("train").masks, masks)
    for other in (small(seed=4).load("train"), first.load("test"), small(seed=2).load("test")):
        same = (other.images == images).float().mean((1, 2, 3))
        assert same.max() < 0.5


def test_no_image_is_repeated_within_or_between_splits() -> None:
    shapes = small(200, 200)
    images = torch.cat([shapes.load("train").images, shapes.load("test").images]).flatten(1)
    assert len(images.unique(dim=0)) == 400


def test_ten_classes_are_balanced() -> None:
    shapes = small(200, 30)
    assert len(shapes.classes) == 10
    assert shapes.load("train").labels.bincount().tolist() == [20] * 10
    assert shapes.load("test").labels.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("between", ["images of a split", "splits"])
def test_every_image_has_its_own_noise(between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simmim_pl.data.sources.shapes.CHUNK", 20)  # more than one chunk, as in a set of normal size
    noisy, clean = small(size=32, noise=0.15), small(size=32, noise=0.0)

    def noise(split: str) -> np.ndarray:
        difference = noisy.load(split).images.double() - clean.load(split).images.double()
        return difference.mean(1).flatten(1).numpy()

    one, other = (noise("train"), noise("test")) if between == "splits" else np.split(noise("train"), 2)
    correlation = np.corrcoef(one, other)[: len(one), len(one) :]
    assert np.abs(correlation).max() < 0.25  # 8 standard deviations of 1024 independent pixels


def test_a_mask_is_zero_or_label_plus_one_and_every_cell_holds_a_copy() -> None:
    shapes = small(400, size=16)
    train = shapes.load("train")
    masks, labels = train.masks, train.labels
    assert shapes.mask_classes == ["background", *shapes.classes]
    assert torch.equal(train.__getitems__([7, 3])["mask"], masks[[7, 3]])
    assert masks.dtype == torch.uint8
    assert masks.shape == (400, 16, 16)
    for mask, label in zip(masks, labels, strict=True):
        assert mask.unique().tolist() == [0, label + 1]
    cells = (masks > 0).unfold(1, 8, 8).unfold(2, 8, 8)  # [N, 2, 2, 8, 8]
    covered = cells.float().mean((-1, -2))
    assert covered.min() > 0
    assert covered.max() < 1


def test_a_mask_is_where_at_least_half_of_a_pixel_is_ink() -> None:
    scene = small(200, size=32).scene("train")
    plain = replace(
        scene,
        color=torch.ones_like(scene.color),
        background=torch.zeros_like(scene.background),
        noise_std=torch.zeros_like(scene.noise_std),
    )
    images, masks = render(plain, 32)
    assert torch.equal(masks, ((images[:, 0] >= 128) * (scene.label[:, None, None] + 1)).byte())


def test_outside_its_mask_an_image_is_the_bilinear_background_and_inside_it_is_not() -> None:
    shapes = small(100, size=32, noise=0.0)
    train, ground = shapes.load("train"), shapes.scene("train").background
    images, masks = train.images.numpy(), train.masks.numpy()
    t = np.linspace(0, 1, 32)
    weights = np.stack([1 - t, t])  # of the two corners along an axis
    background = 255 * np.einsum("ncab,ay,bx->ncyx", ground.numpy(), weights, weights)
    difference = np.abs(images - background).max(1)
    near = np.stack([binary_dilation(mask > 0, iterations=2) for mask in masks])  # the edge itself is blended
    assert (difference[~near] <= 0.51).mean() > 0.98  # the crescent's thin tips reach further
    assert (difference[masks > 0] > 10).mean() > 0.97
    assert (difference[~near] > 10).mean() < 0.01


def test_every_image_has_its_own_deformation() -> None:
    scene = small(100, size=64, copies=1).scene("train")
    own = render(posed(scene), 64)[1]
    common = render(posed(small(100, size=64, copies=1, deform=0.0).scene("train")), 64)[1]
    for label in range(10):
        assert len(own[scene.label == label].unique(dim=0)) == 10
        assert len(common[scene.label == label].unique(dim=0)) == 1


def test_copies_of_an_image_share_only_its_outline() -> None:
    scene = small(40, size=32).scene("train")
    cells = render(posed(scene), 32)[1].unfold(1, 16, 16).unfold(2, 16, 16).flatten(1, 2)
    assert (cells == cells[:, :1]).float().mean() > 0.995  # up to rounding at the edge
    for each in (scene.angle, scene.radius, scene.centre, scene.color, scene.noise_std):
        assert len(each.flatten(0, 1).unique(dim=0)) == 4 * 40


def test_the_outline_without_its_pose_predicts_the_class() -> None:
    scene = small(400, size=16).scene("train")
    assert accuracy(logistic(), render(posed(scene), 16)[1].clamp(max=1), scene.label) > 0.98


@pytest.mark.parametrize("of", ["mean colour", "place, size, angle and colours"])
def test_only_the_outline_predicts_the_class(of: str) -> None:
    shapes = small(2000, size=16)
    scene = shapes.scene("train")
    if of == "mean colour":
        features = shapes.load("train").images.float().mean((2, 3)) / 255
    else:
        parts = (scene.angle, scene.radius, scene.centre, scene.color, scene.background, scene.noise_std)
        features = torch.cat([part.flatten(1) for part in parts], dim=1)
    assert accuracy(logistic(), features, scene.label) < CHANCE + 0.05
    assert accuracy(KNeighborsClassifier(5), features, scene.label) < CHANCE + 0.1


def test_pixel_neighbours_hardly_predict_the_class() -> None:
    shapes = small(1000, size=16)
    images = shapes.load("train").images.float() / 255
    assert accuracy(KNeighborsClassifier(1), images, shapes.scene("train").label) < 2.5 * CHANCE


@pytest.mark.parametrize(("size", "copies"), [(8, 1), (16, 2), (17, 2), (33, 3), (32, 4)])
def test_any_size_and_number_of_copies(size: int, copies: int) -> None:
    shapes = Shapes(train=20, test=10, size=size, copies=copies)
    assert shapes.load("train").images.shape == (20, 3, size, size)
    masks = shapes.load("test").masks
    assert masks.shape == (10, size, size)
    edges = np.ceil(np.arange(copies + 1) * size / copies - 0.5).astype(int)  # by the centres of the pixels
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            assert (masks[:, top:bottom, left:right] > 0).any((1, 2)).all()


@pytest.mark.parametrize(
    "options", [{"train": 9}, {"test": 9}, {"size": 15}, {"size": 7, "copies": 1}, {"copies": 5}, {"copies": 0}]
)
def test_sets_too_small_for_the_classes_or_the_copies_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(
        InputError, match=r"at least 10 images per split and 8 pixels per copy|copies has to be 1 or more"
    ):
        Shapes(**options)
