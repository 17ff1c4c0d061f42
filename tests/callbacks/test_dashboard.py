"""The picture of a run shows the encoder's input, and W&B's files contain it."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, read_image
from torchvision.utils import make_grid

from simmim_pl.callbacks import Dashboard
from simmim_pl.callbacks.dashboard import panels
from simmim_pl.contracts import Batch, Views
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.methods.method import Method, Output
from simmim_pl.report.observed import observed
from simmim_pl.report.run import load_run
from simmim_pl.views import ContrastiveViews
from tests.command.test_cli import records
from tests.conftest import CONFIGS, TINY

GAP = 2  # pixels between two views of the grid


class Smallest(Method):
    """The mean feature as the loss; records the first batch and everything that is logged."""

    def __init__(self) -> None:
        super().__init__(FastCNN(2), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.first: Batch = {}
        self.logged: dict[str, list[Any]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        self.first = self.first or {name: part.clone() for name, part in batch.items()}
        features = self(batch["image"].float() / 255)
        return self.finish(features.pooled.mean(), features.pooled, batch)

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        self.logged.setdefault(name, []).append(value)
        super().log(name, value, *args, **options)


def fit(root: Path, *callbacks: Callback, views: Views | None, logger: bool = True, **options: Any) -> Smallest:
    """40 images in batches of 8: five steps per epoch."""
    module = Smallest()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=root,
        callbacks=list(callbacks),
        logger=CSVLogger(root, name="", version="run") if logger else False,
        **{"max_epochs": 1, "log_every_n_steps": 1, **quiet, **options},
    )
    source = Shapes(train=50, test=10, size=16)
    trainer.fit(module, datamodule=ImageDataModule(source, batch_size=8, validation=10, views=views))
    return module


def cell(grid: Tensor, row: int, column: int, size: int) -> Tensor:
    top, left = (GAP + place * (size + GAP) for place in (row, column))
    return grid[:, top : top + size, left : left + size]


@pytest.mark.parametrize(("number", "rows", "shown"), [(2, 3, 3), (4, 8, 8), (3, 100, 8)])
def test_the_picture_shows_the_first_batch_with_images_as_rows_and_views_as_columns(
    tmp_path: Path, number: int, rows: int, shown: int
) -> None:
    module = fit(tmp_path, Dashboard(images=rows), views=ContrastiveViews(size=12, views=number), max_epochs=2)
    views, grid = module.first["views"], read_image(str(tmp_path / "run/views.png"), ImageReadMode.RGB)
    assert grid.shape == (3, GAP + shown * (12 + GAP), GAP + number * (12 + GAP))
    for row in range(shown):
        for column in range(number):
            shade = cell(grid, row, column, 12) - views[column, row] * 255
            assert shade.abs().max() <= 0.501  # rounded to 8 bits
    assert (views[0, 0] - views[1, 0]).abs().max() > 0.05  # so that a transposed picture differs


def test_without_views_there_is_no_picture(tmp_path: Path) -> None:
    fit(tmp_path, Dashboard(), views=None)
    assert not list(tmp_path.rglob("*.png"))


def test_without_a_logger_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = fit(tmp_path, Dashboard(), views=ContrastiveViews(size=12), logger=False)
    assert "views" in module.first
    assert not list(tmp_path.iterdir())


@pytest.fixture
def offline(cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two validations with local W&B files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(Path.cwd() / "wandb_data"))
    return cli([*TINY, "--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=1"])


def shown(run: Path) -> dict[str, list[Any]]:
    """Everything that was logged, by name and in order; for media, W&B's description."""
    found: dict[str, list[Any]] = {}
    for record in records(run):
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *parts = list(item.nested_key) or [item.key]
            value = json.loads(item.value_json)
            row[name] = {**row.get(name, {}), parts[0]: value} if parts else value
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def picture(run: Path, entry: dict[str, Any]) -> np.ndarray:
    (path,) = run.glob(f"wandb/offline-run-*/files/{entry['path']}")
    return np.asarray(Image.open(path).convert("RGB"))


def test_observations_are_in_wandb_files(offline: Path) -> None:
    found, last = shown(offline), observed(offline)
    for name in ("positive", "negative"):
        histograms = found[f"representation/{name}"]
        assert len(histograms) == 1  # a short run draws only at its end
        assert histograms[-1]["values"] == last[name].tolist()
        assert histograms[-1]["bins"] == pytest.approx(np.linspace(-1, 1, len(last[name]) + 1))
    for name in ("map", "spectrum", "neighbours"):
        assert len(found[f"representation/{name}"]) == 1
    grid = make_grid(torch.from_numpy(last["shown"]).flatten(0, 1), nrow=last["shown"].shape[1])
    neighbours = picture(offline, found["representation/neighbours"][-1])
    np.testing.assert_array_equal(neighbours, grid.permute(1, 2, 0))
    for name in ("map", "spectrum"):
        assert picture(offline, found[f"representation/{name}"][-1]).std() > 5  # the picture is not empty
    assert found["trainer/global_step"][-1] == 10
    views = picture(offline, found["data/views"][0])
    np.testing.assert_array_equal(views, np.asarray(Image.open(offline / "views.png").convert("RGB")))
    assert views.std() > 20


def test_every_picture_of_the_default_layout_is_logged(offline: Path) -> None:
    layout = yaml.safe_load((CONFIGS / "workspace.yaml").read_text())
    panels = [panel for section in layout["sections"] for panel in section["panels"]]
    kinds = {"media": "image-file", "histogram": "histogram"}
    keys = {panel[kind]: kinds[kind] for panel in panels for kind in kinds if kind in panel}
    keys = {key: kind for key, kind in keys.items() if not key.startswith("pictures/")}  # of other methods
    assert len(keys) == 6
    found = shown(offline)
    assert {key: found[key][-1]["_type"] for key in keys} == keys


def test_the_verdict_is_in_the_summary(offline: Path) -> None:
    items = [item for record in records(offline) for item in record.summary.update]
    summary = {item.key: json.loads(item.value_json) for item in items if item.key}
    verdict = load_run(offline).verdict()
    assert (summary["verdict"], summary["verdict_evidence"]) == (verdict.state, str(verdict))


def test_the_checkpoint_is_an_artifact(offline: Path) -> None:
    (artifact,) = (record.artifact for record in records(offline) if record.WhichOneof("record_type") == "artifact")
    assert (artifact.name, artifact.type) == (f"checkpoint-{offline.name}", "model")
    (entry,) = artifact.manifest.contents
    saved = (offline / "checkpoints/last.ckpt").read_bytes()
    assert (entry.path, entry.size) == ("last.ckpt", len(saved))
    assert entry.digest == base64.b64encode(hashlib.md5(saved).digest()).decode()
    assert not list(Path("wandb_data").rglob("last*.ckpt*"))  # no second copy
    (kept,) = offline.glob("checkpoints/last-*.ckpt")
    assert entry.local_path == str(kept.absolute())
    assert kept.samefile(offline / "checkpoints/last.ckpt")


def test_a_file_system_without_links_is_supported(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(Path.cwd() / "wandb_data"))
    monkeypatch.setattr(Path, "hardlink_to", fail)
    run = cli(TINY)
    assert [record for record in records(run) if record.WhichOneof("record_type") == "artifact"]


def test_a_fast_dev_run_writes_nothing(cli: Callable[[list[Any]], Path]) -> None:
    cli([*TINY, "--trainer.fast_dev_run=true"])
    assert not [path for path in Path.cwd().rglob("*") if path.is_file()]


def test_a_failing_picture_does_not_stop_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(found: Any) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("simmim_pl.callbacks.dashboard.pictures", fail)
    monkeypatch.setattr("simmim_pl.callbacks.dashboard.online", lambda trainer: [SimpleNamespace()])
    monkeypatch.setattr("simmim_pl.callbacks.dashboard.require_written", lambda run: None)
    with pytest.warns(UserWarning, match=r"no pictures of step 5 \(ValueError: odd"):
        fit(tmp_path, Dashboard(checkpoint=False), views=None)


def test_many_classes_give_no_confusion_matrix() -> None:
    def card(classes: int) -> dict[str, Any]:
        names = {str(i): 0.5 for i in range(classes)}
        result = {"data": "a", "task": "b", "variant": "", "encoder": "c", "metrics": {}, "per_class": names}
        return {"results": [result | {"confusion": [[1] * classes] * classes}]}

    assert len(panels(card(50))) == 3
    assert len(panels(card(51))) == 2


def test_without_checkpoints_there_is_no_artifact(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = cli([*TINY, "--trainer.enable_checkpointing=false"])
    assert not [record for record in records(run) if record.WhichOneof("record_type") == "artifact"]


@pytest.mark.parametrize(("share", "epochs", "times"), [(1000, 3, 3), (0, 3, 1)])
def test_pictures_are_logged_within_their_time_budget(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch, share: float, epochs: int, times: int
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = cli(
        [
            *(*TINY, f"--callbacks.dashboard.share={share}", "--trainer.enable_checkpointing=false"),
            *("--trainer.check_val_every_n_epoch=1", f"--trainer.max_epochs={epochs}"),
        ]
    )
    for name in ("map", "positive", "neighbours"):
        assert len(shown(run)[f"representation/{name}"]) == times
