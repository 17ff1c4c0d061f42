"""Patch whitening: filters beside NumPy's, and how a run fits and keeps them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from simmim_pl import load_encoder
from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.encoders.patch_whitening import EPS, PatchWhitening
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.methods.fitted_stem import FittedStem, some_images
from tests.conftest import TINY
from tests.test_parity import BYOL

Cli = Callable[[list[Any]], Path]
WHITEN = "--model.encoder.whiten=true"


def smooth_images(channels: int, number: int = 50) -> torch.Tensor:
    """Images whose neighbouring pixels and channels correlate."""
    noise = torch.randn(number, channels, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return nn.functional.avg_pool2d(noise, 3, 1) + noise.mean(1, keepdim=True)[:, :, 1:-1, 1:-1] / 2


@pytest.mark.parametrize(("channels", "side"), [(1, 3), (3, 2), (3, 3)])
def test_the_output_is_white(channels: int, side: int) -> None:
    images = smooth_images(channels)
    stem = PatchWhitening(channels, side).double()
    stem.fit(images)
    out = nn.functional.conv2d(images, stem.weight).movedim(1, 3).flatten(0, 2)
    first, second = out.chunk(2, dim=1)
    assert torch.equal(first, -second)
    moments = (first.mT @ first / len(first)).numpy()
    patches = np.lib.stride_tricks.sliding_window_view(images.numpy(), (side, side), axis=(2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * side**2)
    values = np.linalg.svd(patches, compute_uv=False) ** 2 / len(patches)
    np.testing.assert_allclose(moments, np.diag(values / (values + EPS)), atol=1e-9)


def test_until_it_is_fitted_the_filters_are_the_pixels() -> None:
    image = torch.rand(1, 2, 5, 5)
    out = PatchWhitening(2)(image)
    assert out.shape == (1, 2 * 2 * 9, 5, 5)
    torch.testing.assert_close(out[:, :18].unflatten(1, (2, 9))[:, :, 4], image)
    torch.testing.assert_close(out[:, 18:], -out[:, :18])


def test_a_run_fits_its_stem_to_the_training_images_and_keeps_it(cli: Cli) -> None:
    run = cli([*TINY, WHITEN, "--trainer.max_epochs=1"])
    encoder = load_encoder(run / "checkpoints/last.ckpt")
    stem = encoder.get_submodule("net.0.0")
    data = ImageDataModule(Shapes(train=200, test=100, size=16, copies=1), validation=0.1)
    data.setup("fit")
    due = FastCNN(2, whiten=True)
    images = some_images(data.splits["train"])
    assert len(images) == 180
    due.get_submodule("net.0.0").fit(due.normalize(images))  # type: ignore[operator]
    torch.testing.assert_close(stem.weight, due.get_submodule("net.0.0").weight, rtol=1e-4, atol=1e-4)
    # Another data set's images do not change it, neither on resume nor for a run that starts from its weights.
    other = "--data.source.noise=0.9"
    resumed = cli([*TINY, WHITEN, other, f"--ckpt_path={run / 'checkpoints/last.ckpt'}", "--trainer.max_epochs=2"])
    started = cli([*TINY, WHITEN, other, f"--model.weights={run / 'checkpoints/last.ckpt'}", "--name=started"])
    for each in (resumed, started):
        kept = load_encoder(each / "checkpoints/last.ckpt").get_submodule("net.0.0")
        assert torch.equal(kept.weight, stem.weight)


def test_images_are_spaced_evenly_and_cropped(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = [{"image": torch.full((1, 20, 40), index / 100)} for index in range(101)]
    monkeypatch.setattr("simmim_pl.methods.fitted_stem.IMAGES", 3)
    found = some_images(numbered)
    assert found.shape == (3, 1, 20, 32)
    assert found[:, 0, 0, 0].tolist() == [0, 0.5, 1]


def test_a_teacher_has_the_same_stem_and_both_keep_it(cli: Cli) -> None:
    run = cli([*TINY, *BYOL, WHITEN, "--model.encoder.pool=2"])
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    stems = [state[name] for name in state if name.endswith("net.0.0.weight")]
    assert len(stems) == 2
    assert torch.equal(*stems)
    assert not torch.equal(stems[0], PatchWhitening(3).weight)


def test_a_second_fit_keeps_the_filters() -> None:
    method = Contrastive(FastCNN(2, whiten=True), ProjectionHead, NTXent(), optimizer=torch.optim.SGD)
    (found,) = method.configure_callbacks()
    assert isinstance(found, FittedStem)
    method.encoder.get_submodule("net.0.0").fit(smooth_images(3).float())  # type: ignore[operator]
    assert method.configure_callbacks() == []
    FittedStem().on_fit_start(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), method)


def test_a_datamodule_without_splits_is_refused() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    FittedStem().on_fit_start(trainer, FastCNN(2))
    with pytest.raises(InputError, match="A whitening stem is fitted to training images: the datamodule needs"):
        FittedStem().on_fit_start(trainer, FastCNN(2, whiten=True))
