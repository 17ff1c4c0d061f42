"""Rotation prediction: rotations equal torchvision's, the loss scikit-learn's, and a run at chance is detected."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss
from torchvision.transforms.functional import rotate

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, InMemory, Source, Split
from simmim_pl.encoders import NIN, FastCNN
from simmim_pl.methods import Rotation
from simmim_pl.methods.rotation import ANGLES, rotations
from simmim_pl.metrics import verdict
from simmim_pl.report.chance import chance_levels
from simmim_pl.report.pictures import depth
from simmim_pl.report.run import load_run
from simmim_pl.views import CropFlip
from tests.conftest import CONFIGS, EVALUATION, NO_PICTURES, TINY, isolate, newest_run
from tests.metrics.test_evidence import FEATURES
from tests.report.test_tables import rows_of

OTHERS = [arg for arg in TINY if "model.head" not in arg and "model.encoder" not in arg]
FIT = [*OTHERS, "--model=simmim_pl.methods.Rotation", "--model.encoder=simmim_pl.encoders.NIN"]
FIT += ["--model.encoder.width=4", "--data.views=simmim_pl.views.CropFlip", "--trainer.check_val_every_n_epoch=1"]


def method() -> Rotation:
    torch.manual_seed(0)
    return Rotation(FastCNN(2), optimizer=partial(torch.optim.SGD, lr=0.1))


def views(number: int = 1, images: int = 5, side: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(number, images, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [8, 7])
def test_rotations_equal_torchvision(side: int) -> None:
    images = views(side=side)[0]
    expected = [rotate(images, angle) for angle in (0, 90, 180, 270)]
    assert torch.equal(rotations(images), torch.cat(expected))


@pytest.mark.parametrize("number", [1, 2])
def test_loss_and_accuracy_equal_scikit_learn(number: int) -> None:
    module, logged, batch = method(), {}, {"views": views(number), "label": torch.arange(5)}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.finish = lambda loss, pooled, batch: {"loss": loss, "features": pooled}  # type: ignore[method-assign]
    loss, pooled = module.training_step(batch, 0).values()
    images = torch.cat([rotate(batch["views"].flatten(0, 1), angle) for angle in ANGLES])
    encoded = module.encoder(images).pooled
    chances = module.classifier(encoded).softmax(1).detach().double().numpy()
    angle = np.arange(4).repeat(5 * number)
    assert loss.item() == pytest.approx(log_loss(angle, chances / chances.sum(1, keepdims=True)), rel=1e-5)
    found = logged["train/rotation_accuracy"]  # computed only if written
    assert found().item() == pytest.approx(accuracy_score(angle, chances.argmax(1)))
    assert logged["train/loss_at_chance"] == math.log(4)
    torch.testing.assert_close(pooled, encoded[: 5 * number])  # upright ones


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"views": torch.rand(1, 2, 3, 8, 6)}, r"needs square views.*these are of 8×6 pixels"),
        ({"views": torch.rand(2, 3, 8, 8)}, r"a collate_fn .* views=simmim_pl\.views\.CropFlip"),
        ({"image": torch.rand(2, 3, 8, 8)}, 'a mapping with "views"'),
    ],
)
def test_views_that_are_not_square_are_refused(batch: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        method().training_step(batch, 0)


@pytest.mark.parametrize(
    ("data", "says"), [({"views": None}, "set --data.views"), ({"local_views": 1}, "remove --data.local_views")]
)
def test_unsupported_data_are_refused_before_the_first_step(data: dict[str, Any], says: str) -> None:
    module = method()
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(**{"views": 1, "local_views": None, **data}))
    with pytest.raises(InputError, match=says):
        module.on_fit_start()


def test_pictures_show_the_image_at_every_angle() -> None:
    image = (views(side=12)[0] * 255).to(torch.uint8)[..., 2:10]  # of which the middle is square
    ((name, shown),) = method().pictures({"image": image}).items()
    assert name == "image turned by 0, 90, 180, 270 degrees"
    assert shown.shape == (5, 4, 3, 8, 8)
    for column, angle in enumerate(ANGLES):
        assert torch.equal(shown[:, column], rotate(image[:, :, 2:10], angle) / 255)


def test_a_run_at_chance_is_detected() -> None:
    at_chance = FEATURES | {"train/loss": 1.38, "train/loss_at_chance": math.log(4)}
    assert verdict([FEATURES] * 2).state == "learning"
    found = verdict([at_chance] * 2)
    assert found.state != "learning"
    assert found.against == ("loss 1.38, by chance 1.39",)
    assert verdict([at_chance | {"train/loss": 0.6}] * 2).state == "learning"
    assert verdict([at_chance | {"val/knn": FEATURES["val/knn_untrained"]}] * 2).state == "not learning"


class Digits(Source):
    """scikit-learn's handwritten digits, 8×8 pixels, grey, upright."""

    def load(self, split: Split) -> InMemory:
        self.classes = list("0123456789")
        digits = load_digits()
        rows = slice(1000) if split == "train" else slice(1000, None)
        image = torch.from_numpy(digits.images[rows] * 255 / 16).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
        return InMemory(image.contiguous(), torch.from_numpy(digits.target[rows]))


def test_it_learns_the_rotation_of_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Rotation(NIN(3, 12), optimizer=partial(torch.optim.SGD, lr=0.4, momentum=0.9))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    steps = {"max_steps": 60, "log_every_n_steps": 1, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **steps, **quiet)
    trainer.fit(module, datamodule=ImageDataModule(Digits(), 64, CropFlip(scale=(0.8, 1.0), flip=0.0), validation=10))
    assert trainer.callback_metrics["train/rotation_accuracy"] > 0.55
    assert trainer.callback_metrics["train/loss"] < math.log(4) - 0.3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run directory of a tiny pretraining, for the evaluations below."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("rotation"))
        yield newest_run([*FIT, *[arg for arg in NO_PICTURES if "pictures" not in arg and "report" not in arg]])


def test_a_run_logs_rotation_accuracy_and_pictures(trained: Path) -> None:
    run = load_run(trained)
    np.testing.assert_allclose(run.history["train/loss_at_chance"][1], math.log(4), rtol=1e-6)
    assert ((run.history["train/rotation_accuracy"][1] > 0) & (run.history["train/rotation_accuracy"][1] < 1)).all()
    assert chance_levels(run)["train/rotation_accuracy"] == 0.25
    assert {"representation/rankme", "val/knn", "val/probe"} <= run.history.keys()
    assert any("image turned by" in name for name in run.observed)


def evaluated(run: Path, name: str, *more: str) -> dict[str, Any]:
    """The card of an evaluation of the run's checkpoint."""
    config = f"--config={CONFIGS / 'evaluate' / name}.yaml"
    folder = newest_run(["validate", config, *EVALUATION, f"--model.checkpoint={run}/checkpoints/last.ckpt", *more])
    card: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return card


def test_layers_are_evaluated_together_or_by_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = evaluated(trained, "depth")
    names = [f"net.block{number}" for number in (1, 2, 3, 4)]
    assert [(result["encoder"], result["depth"], result["variant"]) for result in every["results"]] == [
        (encoder, number, name) for encoder in ("pretrained", "untrained") for number, name in enumerate(names, 1)
    ]
    html = depth(load_run(trained))
    assert [row[0] for row in rows_of(html)] == ["layer", *(f"{n}: {name}" for n, name in enumerate(names, 1))]
    assert html.count("<figure>") == 1
    one = evaluated(trained, "linear", "--model.layer=net.block2")
    assert [result["encoder"] for result in one["results"]] == ["pretrained", "untrained", "raw pixels"]
    for result in one["results"][:2]:
        (same,) = [each for each in every["results"] if (each["encoder"], each["depth"]) == (result["encoder"], 2)]
        assert (result["metrics"], result["chosen"]) == (same["metrics"], same["chosen"])
    for name in ("pretrained", "untrained"):
        described = every["encoders"][name] | {"layer": "net.block2", "embed_dim": 4, "feature_map_channels": 4}
        assert one["encoders"][name] == described
    assert "layer" not in one["encoders"]["raw pixels"]
    assert "Features of layer net.block2\n| data" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        evaluated(trained, "knn", "--model.layer=block2")
    said = "NIN has no layer block2: choose one of net.block1, net.block2, net.block3, net.block4."
    assert f"error: {said}\n" in capsys.readouterr().err
