"""Chance is the value of loss and metrics on uninformative projections."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from simmim_pl.losses import NTXent
from simmim_pl.metrics import MutualInformation, contrastive_accuracy
from simmim_pl.report.chance import chance_levels
from simmim_pl.report.observed import keep
from simmim_pl.report.run import load_run
from tests.conftest import CONFIGS


def made(folder: Path, views: int = 2, local: int = 0, images: int = 8, **loss: Any) -> dict[str, float]:
    """Chance levels of a quickstart run with these views and loss."""
    config = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    config["data"]["init_args"]["batch_size"] = images
    config["data"]["init_args"]["views"]["init_args"]["views"] = views
    if local:
        config["data"]["init_args"]["local_views"] = {"class_path": "x.Y", "init_args": {"views": local}}
    config["model"]["init_args"]["loss"]["init_args"] |= loss
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return chance_levels(load_run(folder))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("views", "local"), [(2, 0), (3, 0), (2, 4)])
def test_chance_is_the_loss_of_equal_projections(tmp_path: Path, views: int, local: int, decoupled: bool) -> None:
    found = made(tmp_path / "run", views, local, decoupled=decoupled)
    same = torch.ones(views + local, 8, 5)
    assert found["train/loss"] == pytest.approx(NTXent(0.1, decoupled)(same).item(), abs=1e-5)


def test_chance_of_two_views_is_the_logarithm_of_the_other_rows(tmp_path: Path) -> None:
    assert made(tmp_path / "run", images=256)["train/loss"] == pytest.approx(math.log(2 * 256 - 1))


@pytest.mark.parametrize("views", [2, 4])
def test_chance_of_contrastive_accuracy_is_that_of_random_projections(tmp_path: Path, views: int) -> None:
    found = made(tmp_path / "run", views)
    torch.manual_seed(0)
    scores = torch.stack([contrastive_accuracy(torch.randn(views, 8, 16)) for _ in range(800)])
    error = scores.std().item() / math.sqrt(800)
    assert found["train/contrastive_accuracy"] == pytest.approx(scores.mean().item(), abs=4 * error)


def test_chance_on_validation_images_follows_from_the_ceiling(tmp_path: Path) -> None:
    metric = MutualInformation()
    metric.update(torch.randn(2, 40, 8))
    ceiling = metric.compute()["ceiling"].item()
    (tmp_path / "metrics.csv").write_text(f"step,information/ceiling\n9,{ceiling}\n")
    assert chance_levels(load_run(tmp_path)) == {"representation/contrastive_accuracy": pytest.approx(1 / (2 * 40 - 1))}


def test_chance_of_accuracy_is_one_over_classes(tmp_path: Path) -> None:
    keep(tmp_path, {"classes": np.array(["a", "b", "c", "d"])})
    (tmp_path / "metrics.csv").write_text("step\n")
    assert chance_levels(load_run(tmp_path)) == {"val/knn": 0.25, "val/probe": 0.25}
    (tmp_path / "metrics.csv").write_text("step,val/chance\n9,0.4\n")  # of classes that are not equally frequent
    assert chance_levels(load_run(tmp_path)) == {"val/knn": 0.4, "val/probe": 0.4}


@pytest.mark.parametrize("text", ["", "model: {loss: x}\n", "data: {views: null, batch_size: many}\n"])
def test_unknown_chance_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(f"name: some\n{text}")
    assert chance_levels(load_run(tmp_path)) == {}


def test_other_losses_have_other_chance_levels(tmp_path: Path) -> None:
    made(tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text().replace("simmim_pl.losses.NTXent", "mine.Loss"))
    assert "train/loss" not in chance_levels(load_run(tmp_path / "run"))


def test_logged_chance_is_not_computed_again(tmp_path: Path) -> None:
    assert "train/loss" in made(tmp_path / "run")
    (tmp_path / "run/metrics.csv").write_text("step,train/loss_at_chance\n1,6.2\n")
    assert chance_levels(load_run(tmp_path / "run")).keys() == {"train/contrastive_accuracy"}
