"""What a run shows is what went through the encoder, and W&B's files hold it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torchvision.io import ImageReadMode, read_image

from simmim_pl.callbacks import Dashboard
from simmim_pl.data import Images, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.methods.method import Method, Output
from simmim_pl.records import Batch, Views
from simmim_pl.views import ContrastiveViews

GAP = 2  # pixels between two views of the grid


class Smallest(Method):
    """The mean feature as a loss; keeps the first batch and whatever is logged."""

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
    """40 images in batches of 8: five steps an epoch."""
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
    trainer.fit(module, datamodule=Images(source, batch_size=8, validation=10, views=views))
    return module


def cell(grid: Tensor, row: int, column: int, size: int) -> Tensor:
    top, left = (GAP + place * (size + GAP) for place in (row, column))
    return grid[:, top : top + size, left : left + size]


@pytest.mark.parametrize(("number", "rows", "shown"), [(2, 3, 3), (4, 8, 8), (3, 100, 8)])
def test_the_picture_is_the_first_batch_one_image_a_row_one_view_a_column(
    tmp_path: Path, number: int, rows: int, shown: int
) -> None:
    module = fit(tmp_path, Dashboard(images=rows), views=ContrastiveViews(size=12, views=number), max_epochs=2)
    views, grid = module.first["views"], read_image(str(tmp_path / "run/views.png"), ImageReadMode.RGB)
    assert grid.shape == (3, GAP + shown * (12 + GAP), GAP + number * (12 + GAP))
    for row in range(shown):
        for column in range(number):
            shade = cell(grid, row, column, 12) - views[column, row] * 255
            assert shade.abs().max() <= 0.501  # rounded to whole shades
    assert (views[0, 0] - views[1, 0]).abs().max() > 0.05  # so a transposed picture would differ


def test_without_views_there_is_no_picture(tmp_path: Path) -> None:
    fit(tmp_path, Dashboard(), views=None)
    assert not list(tmp_path.rglob("*.png"))


def test_without_a_logger_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = fit(tmp_path, Dashboard(), views=ContrastiveViews(size=12), logger=False)
    assert "views" in module.first
    assert not list(tmp_path.iterdir())
