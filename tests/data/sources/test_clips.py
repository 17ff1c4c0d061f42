"""Procedural clips: every frame is rendered, and only the order of frames shows the motion."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, ShapesClips
from simmim_pl.data.sources.shapes import ROTATIONS, Shapes, render

CHANCE = 0.25


def small(train: int = 40, test: int = 40, size: int = 16, frames: int = 4, **options: float) -> ShapesClips:
    return ShapesClips(train, test, size, frames, **options)


def accuracy(model: object, features: Tensor, labels: Tensor) -> float:
    """Accuracy on the second half of the rows of a model fitted on the first half."""
    x, y, half = features.flatten(1).numpy(), labels.numpy(), len(labels) // 2
    return model.fit(x[:half], y[:half]).score(x[half:], y[half:])


def test_a_batch_has_clips_instead_of_images() -> None:
    train = small().load("train")
    batch = train.__getitems__([7, 3, 30])
    assert set(batch) == {"clip", "label", "index"}
    assert batch["clip"].shape == (3, 4, 3, 16, 16)
    assert batch["clip"].dtype == torch.uint8
    assert batch["label"].tolist() == train.labels[[7, 3, 30]].tolist()
    assert len(train) == 40


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(2, 6), seed=st.integers(0, 9), index=st.lists(st.integers(0, 19), min_size=1, max_size=4))
def test_frame_t_is_the_image_with_every_copy_turned_by_t_times_the_spin(
    frames: int, seed: int, index: list[int]
) -> None:
    scene = Shapes(20, 20, 16, seed=seed).scene("train")[torch.tensor(index)]
    clips = small(20, 20, frames=frames, seed=seed).load("train").read(torch.tensor(index))
    assert clips.shape[1] == frames
    for t in range(frames):
        turned = [angle + t * ROTATIONS[spin] for angle, spin in zip(scene.angle, scene.rotation.tolist(), strict=True)]
        apart = (clips[:, t].int() - render(replace(scene, angle=torch.stack(turned)), 16)[0].int()).abs()
        assert apart.max() <= 1  # an angle's last digit may change the rounding
        assert apart.float().mean() < 1e-3


def test_clips_start_with_the_images_of_shapes_and_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    train, every = small().load("train"), torch.arange(40)
    torch.manual_seed(2)
    assert torch.equal(train.read(every)[:, 0], Shapes(40, 40, 16).load("train").images)
    assert torch.equal(train.read(every), small().load("train").read(every))
    assert not torch.equal(train.read(every), small().load("test").read(every))
    assert not torch.equal(train.read(every), small(seed=1).load("train").read(every))


def test_right_is_clockwise_on_the_screen_and_fast_is_faster() -> None:
    source = ShapesClips(200, 10, size=64, frames=2, copies=1, deform=0.0)
    scene = source.load("train").scene
    scene = replace(scene, angle=torch.zeros_like(scene.angle), centre=torch.zeros_like(scene.centre))[scene.label == 6]
    after = replace(scene, angle=torch.tensor(ROTATIONS)[scene.rotation][:, None])
    # The half disc is below its centre; rotated clockwise, it moves to the left.
    left = [(render(each, 64)[1] > 0).float().mean(1) @ (31.5 - torch.arange(64.0)) for each in (scene, after)]
    for name, moved in zip([source.classes[spin] for spin in scene.rotation.tolist()], left[1] - left[0], strict=True):
        assert ("right" in name) == (moved > 0)
    distance = torch.stack([(left[1] - left[0])[scene.rotation == spin].abs().mean() for spin in range(4)])
    assert ["fast" in name for name in source.classes] == (distance > distance.median()).tolist()


def test_two_frames_predict_the_motion() -> None:
    train = small(100, size=32, frames=2, noise=0.0).load("train")
    scene, clips = train.scene, train.read(torch.arange(100))
    turned = [render(replace(scene, angle=scene.angle + speed), 32)[0].float() for speed in ROTATIONS]
    distance = torch.stack([(clips[:, 1] - guess).square().mean((1, 2, 3)) for guess in turned])
    turns = ~torch.isin(scene.label, torch.tensor([0, 1]))  # discs and rings hardly change under rotation
    assert (distance.argmin(0) == train.labels)[turns].all()


@pytest.mark.parametrize("model", [LogisticRegression(max_iter=200, tol=1e-3), KNeighborsClassifier(5)])
@pytest.mark.parametrize("frame", [0, 3])
def test_one_frame_does_not_predict_the_motion(frame: int, model: object) -> None:
    train = small(800).load("train")
    pixels = train.read(torch.arange(800))[:, frame].float() / 255
    assert accuracy(model, pixels, train.labels) < CHANCE + 0.08  # 3.7 standard deviations


def test_motions_are_equally_frequent_and_independent_of_the_outline() -> None:
    train = small(4000).load("train")
    table = np.zeros((10, len(ROTATIONS)))
    np.add.at(table, (train.scene.label.numpy(), train.labels.numpy()), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    assert np.abs(table.sum(0) - 1000).max() < 100  # 3.6 standard deviations


def test_the_digest_depends_on_all_arguments() -> None:
    others = [{"seed": 1}, {"frames": 3}, {"size": 17}, {"noise": 0.1}, {"deform": 0.1}, {"copies": 1}, {"train": 41}]
    digests = [small(**other).load("train").digest() for other in others] + [small().load("test").digest()]
    assert small().load("train").digest() == small(test=50).load("train").digest() not in digests
    assert len(set(digests)) == len(digests)


def test_every_loader_of_the_datamodule_gives_clips() -> None:
    images = ImageDataModule(small(), batch_size=8, validation=0.2, workers=1)
    images.setup("fit")
    images.setup("test")
    loaders = (images.train_dataloader, images.val_dataloader, images.reference_dataloader, images.test_dataloader)
    for loader, number in zip(loaders, (32, 8, 16, 40), strict=True):
        batches = [images.on_after_batch_transfer(batch, 0) for batch in loader()]
        assert sum(len(batch["label"]) for batch in batches) == number
        assert all(batch["clip"].shape[1:] == (4, 3, 16, 16) for batch in batches)


@pytest.mark.parametrize(
    ("options", "says"), [({"frames": 1}, "frames is 1: a turn shows in 2"), ({"size": 8}, "8 pixels per copy")]
)
def test_settings_without_visible_motion_are_refused(options: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ShapesClips(**options)
