"""Every file in configs/ runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from PIL import Image

from simmim_pl.data import CIFAR10, CIFAR100, STL10, OxfordPets, Shapes
from simmim_pl.data.source import InMemory
from tests.conftest import CONFIGS, QUIET, SHAPES, TINY

Cli = Callable[[list[Any]], Path]
SMALL = [
    *("--data.source=simmim_pl.data.Shapes", *SHAPES, *QUIET, "--data.batch_size=16", "--data.validation=20"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
    *("--trainer.check_val_every_n_epoch=1", "--trainer.enable_model_summary=false"),
]
CLIPS = ["clips", "frames", "videos"]  # evaluated on, not trained on
STORIES = ["quickstart", "cifar10", "cifar10_fast"]
COMMANDS = ["sweep", "workspace"]  # of test_sweep and test_workspace
FRAGMENTS = {folder: sorted((CONFIGS / folder).glob("*.yaml")) for folder in ("data", "encoder", "trainer", "evaluate")}


def test_there_is_no_config_that_the_tests_below_do_not_run() -> None:
    run = {CONFIGS / f"{name}.yaml" for name in [*STORIES, *COMMANDS]} | {
        path for paths in FRAGMENTS.values() for path in paths
    }
    assert set(CONFIGS.rglob("*.yaml")) == run


@pytest.mark.parametrize("name", STORIES)
def test_a_story_runs(cli: Cli, name: str) -> None:
    run = cli(["fit", f"--config={CONFIGS / name}.yaml", *SMALL])
    assert run.parent.name == name
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("path", FRAGMENTS["encoder"], ids=lambda path: path.stem)
def test_an_encoder_fragment_swaps_the_encoder(cli: Cli, path: Path) -> None:
    run = cli(
        ["fit", f"--config={CONFIGS / 'quickstart.yaml'}", *SMALL, "--data.views.size=8", f"--model.encoder={path}"]
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["encoder"]["class_path"] == yaml.safe_load(path.read_text())["class_path"]


@pytest.mark.parametrize("path", FRAGMENTS["trainer"], ids=lambda path: path.stem)
def test_a_trainer_fragment_runs_on_one_cpu(cli: Cli, path: Path) -> None:
    one = [*QUIET, "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    cli([*TINY, f"--trainer={path}", *one, "--trainer.max_epochs=1"])


@pytest.mark.parametrize(
    "path", [path for path in FRAGMENTS["data"] if path.stem not in CLIPS], ids=lambda path: path.stem
)
def test_a_data_fragment_swaps_the_data_and_keeps_the_views(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, path: Path, tmp_path: Path
) -> None:
    small = Shapes(train=200, test=100, size=32)

    def load(self: Any, split: str) -> InMemory:
        images = small.load(split)  # type: ignore[arg-type]
        unlabelled = getattr(self, "train", None) == "unlabelled"
        self.classes = [] if unlabelled else small.classes
        return InMemory(images.images, None if unlabelled else images.labels)

    for source in (CIFAR10, CIFAR100, OxfordPets, STL10):  # their files have tests of their own
        monkeypatch.setattr(source, "prepare", lambda self: None)
        monkeypatch.setattr(source, "load", load)
    for folder in ("images/train", "images/test", "imagenet/train", "imagenet/val"):
        for label in ("a", "b"):
            (tmp_path / "data" / folder / label).mkdir(parents=True)
            for number in range(20):
                image = Image.new("RGB", (40, 32), (number * 9, 0, 0))
                image.save(tmp_path / f"data/{folder}/{label}/{number}.png")
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (tmp_path / "data/masks" / split / part).mkdir(parents=True)
            for number in range(40):
                value = number % 2 if part == "masks" else 6 * number
                Image.new("L", (40, 32), value).save(tmp_path / f"data/masks/{split}/{part}/{number}.png")
    extra = SHAPES if path.stem == "shapes" else []
    large = path.stem in ("cifar10", "cifar100", "stl10", "imagenet")
    few = ["--data.validation=10"] if large else []  # the fragments' thousands are not there
    drop = [arg for arg in TINY if arg not in SHAPES]
    run = cli([*drop, f"--data={path}", *extra, *few, "--data.batch_size=16", "--trainer.max_epochs=1"])
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert config["source"]["class_path"] == yaml.safe_load(path.read_text())["init_args"]["source"]["class_path"]
    assert config["views"]["class_path"] == "simmim_pl.views.ContrastiveViews"


@pytest.mark.parametrize("name", CLIPS)
def test_a_fragment_of_clips_serves_them_without_views(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "simmim_pl.data.sources.video.read_frames", lambda file, frames: torch.zeros(frames, 3, 9, 8).byte()
    )
    for clip in (f"{split}/{label}/{number}" for split in ("train", "test") for label in "ab" for number in range(5)):
        (tmp_path / "data/frames" / clip).mkdir(parents=True)
        (tmp_path / "data/videos" / clip).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/videos" / f"{clip}.mp4").touch()
        for number in range(9):
            Image.new("RGB", (9, 8)).save(tmp_path / "data/frames" / clip / f"{number}.png")
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    path = CONFIGS / f"data/{name}.yaml"
    data = parser.instantiate_classes(parser.parse_args([f"--data={path}", "--data.workers=0"])).data
    data.prepare_data()
    for stage, loader in (("fit", data.train_dataloader), ("test", data.test_dataloader)):
        data.setup(stage)
        batch = next(iter(loader()))
        assert set(batch) == {"clip", "label", "index"}
        assert batch["clip"].shape[1:] == (8, 3, 32, 32)


def shrunk(part: Any) -> Any:
    """A config whose procedural sets and networks' training are small, all else as it is."""
    if isinstance(part, list):
        return [shrunk(each) for each in part]
    if not isinstance(part, dict):
        return part
    small = {key: shrunk(value) for key, value in part.items()}
    kind = str(small.get("class_path")).rpartition(".")[2]
    if kind in ("Shapes", "ShapesClips"):
        small["init_args"] = {"train": 100, "test": 50, "size": 16, "copies": 1}
    if kind == "FineTune":
        small["init_args"] |= {"epochs": 1}
    return small


@pytest.mark.parametrize("path", FRAGMENTS["evaluate"], ids=lambda path: path.stem)
def test_an_evaluation_runs(
    cli: Cli, pretrained: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Shapes(train=100, test=50, size=16, copies=1)

    def load(self: Any, split: str) -> InMemory:
        self.classes = pictures.classes
        return pictures.load(split)  # type: ignore[arg-type]

    for source in (CIFAR10, CIFAR100, STL10):
        monkeypatch.setattr(source, "prepare", lambda self: None)
        monkeypatch.setattr(source, "load", load)
    story = shrunk(yaml.safe_load(path.read_text()))
    if path.stem == "transfer":
        for data in story["model"]["init_args"]["transfer"]:
            data["init_args"]["validation"] = 10  # of 100 images the file's 5,000 cannot be held out
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
    source = {"video": "ShapesClips", "all": None, "transfer": None, "stl10": None}.get(path.stem, "Shapes")
    data = ["--data=simmim_pl.data.ImageDataModule", f"--data.source=simmim_pl.data.{source}"] if source else []
    data += [f"--data.source.{key}" for key in ("train=100", "test=50", "size=16", "copies=1")] if source else []
    run = cli(["validate", "--config=story.yaml", f"--model.checkpoint={pretrained}", *data, *QUIET])
    card = json.loads((run / "result.json").read_text())
    asked = {protocol["class_path"].rpartition(".")[2] for protocol in story["model"]["init_args"]["protocols"]}
    assert {result["task"] for result in card["results"]} == asked
    assert {"pretrained", "untrained"} <= {result["encoder"] for result in card["results"]}
    sets = {"all": {"Shapes", "ShapesClips"}, "transfer": {"Shapes", "CIFAR10", "CIFAR100"}}
    sets["stl10"] = {f"STL10, fold {fold}" for fold in range(10)}
    assert {result["data"] for result in card["results"]} == sets.get(path.stem, {source})
