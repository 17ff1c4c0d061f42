"""Every file in configs/ runs."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer, swin_t

from simmim_pl.command.sweep_config import build_command, load_sweep_config
from simmim_pl.contracts import Encoder, Views
from simmim_pl.data import CIFAR10, CIFAR100, STL10, OxfordPets, Shapes
from simmim_pl.data.source import InMemory
from simmim_pl.losses.loss import Loss
from simmim_pl.losses.nt_xent import nt_xent
from simmim_pl.report.run import load_run
from tests.conftest import CONFIGS, NO_PICTURES, QUIET, SHAPES, TINY

Cli = Callable[[list[Any]], Path]
SMALL = [
    *("--data.source=simmim_pl.data.Shapes", *SHAPES, *QUIET, "--data.batch_size=16", "--data.validation=20"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
    *("--trainer.check_val_every_n_epoch=1", "--trainer.enable_model_summary=false", *NO_PICTURES),
]
CLIPS = ["clips", "frames", "videos"]  # for evaluation only
STORIES = [
    *("quickstart", "quickstart_simmim", "cifar10", "cifar10_fast", "cifar10_gpu", "cifar10_simmim"),
    *("cifar10_byol", "cifar10_mocov3", "cifar10_rotation", "cifar10_sigreg"),
]
SHARED = ("base", "evaluate")  # the shared part of configs/methods.yaml
COMMANDS = ["sweep", "workspace", "methods"]  # tested in test_sweep and test_workspace, and below
COMPARED = sorted(set((CONFIGS / "comparison").glob("*.yaml")) - {CONFIGS / f"comparison/{n}.yaml" for n in SHARED})
FOLDERS = ("data", "encoder", "evaluate", "loss", "method", "trainer", "views")
TEACHERS = ["byol", "moco_v3"]
METHODS = {"contrastive", "rotation", "masked_image", *TEACHERS}  # each put together with other fragments below
FRAGMENTS = {folder: sorted((CONFIGS / folder).glob("*.yaml")) for folder in FOLDERS}


def test_every_config_is_tested_below() -> None:
    names = [*STORIES, *COMMANDS, *(f"comparison/{name}" for name in SHARED)]
    run = {CONFIGS / f"{name}.yaml" for name in names} | {path for paths in FRAGMENTS.values() for path in paths}
    run |= set(COMPARED)
    assert set(CONFIGS.rglob("*.yaml")) == run
    assert {path.stem for path in FRAGMENTS["method"]} == METHODS


@pytest.mark.parametrize("name", STORIES)
def test_an_experiment_runs(cli: Cli, name: str) -> None:
    more = ["--model.compile=false"] if name == "cifar10_gpu" else []  # on a CPU that takes a minute
    run = cli(["fit", f"--config={CONFIGS / name}.yaml", *SMALL, "--data.views.size=16", *more])
    assert run.parent.name == name
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace CIFAR-10 by a few procedural images, whose test split must not be loaded."""

    def load(self: Any, split: str) -> InMemory:
        assert split == "train"
        pictures = Shapes(train=120, test=10, size=16, copies=1)
        self.classes = pictures.classes
        return pictures.load("train")

    monkeypatch.setattr(CIFAR10, "prepare", lambda self: None)
    monkeypatch.setattr(CIFAR10, "load", load)


def narrow(path: Path) -> list[str]:
    """Options that make a compared method small, whatever its parts."""
    model = yaml.safe_load((CONFIGS / "comparison/base.yaml").read_text())["model"]["init_args"]
    model |= yaml.safe_load(path.read_text())["model"].get("init_args", {})
    vit = model["encoder"]["class_path"].endswith("ViT")
    small = ["--model.encoder.width=4"] + (["--model.encoder.depth=1"] if vit else ["--model.encoder.features=8"])
    return small + [f"--model.{part}.hidden_dim=8" for part in ("head", "predictor") if part in model]


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_a_compared_method_runs_on_the_shared_base(cli: Cli, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    held_out(monkeypatch)
    files = [f"--config={CONFIGS / 'comparison/base.yaml'}", f"--config={path}"]
    few = ["--data.batch_size=16", "--data.validation=20", "--callbacks.max_flop.flop=1e9", *NO_PICTURES]
    run = cli(["fit", *files, *narrow(path), *few, *QUIET, "--trainer.max_steps=2"])
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] in (1, 2)
    config = yaml.safe_load((run / "config.yaml").read_text())
    said = yaml.safe_load(path.read_text())
    assert config["model"]["class_path"] == said["model"]["class_path"]
    assert config["data"]["init_args"]["source"]["class_path"] == "simmim_pl.data.HeldOut"
    optimizer = config["model"]["init_args"]["optimizer"]
    own = said["model"].get("init_args", {}).get("optimizer", {"init_args": {"lr": 0.01}})
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == (
        "simmim_pl.optimizers.Muon",
        own["init_args"]["lr"],
    )


def test_the_comparison_has_every_method_twice_and_evaluates_each(
    cli: Cli, pretrained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load_sweep_config(str(CONFIGS / "methods.yaml"))
    files = {CONFIGS.parent / values["config"] for values in config.combinations}
    assert files == set(COMPARED)
    assert len(config.combinations) == 2 * len(COMPARED)
    told = [build_command(config, values) for values in config.combinations]
    assert all(words[3:6] == ["simmim_pl", "fit", "--config=configs/comparison/base.yaml"] for words in told)
    assert config.evaluate[3:] == ["${program}", "validate", "--config=configs/comparison/evaluate.yaml"]

    held_out(monkeypatch)
    story = shrunk(yaml.safe_load((CONFIGS / "comparison/evaluate.yaml").read_text()))
    (tuning,) = [each for each in story["model"]["init_args"]["protocols"] if each["class_path"].endswith("FineTune")]
    tuning["init_args"]["data"]["init_args"]["validation"] = 40
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
    run = cli(["validate", "--config=story.yaml", f"--model.checkpoint={pretrained}", "--data.validation=20", *QUIET])
    card = json.loads((run / "result.json").read_text())
    assert [(result["task"], result["variant"], result["encoder"]) for result in card["results"]] == [
        ("KNN", "", "pretrained"),
        ("LinearProbe", "", "pretrained"),
        ("FewLabels", "1 % of labels", "pretrained"),
        ("FineTune", "", "pretrained"),
    ]
    assert {result["data"] for result in card["results"]} == {"CIFAR10 (held out)"}


NARROW = {
    "vit_tiny": {"depth": 1},
    "vit_small_224": {"depth": 1, "width": 12},
    "swin": {"depths": [1, 1, 1], "width": 12},
    "swin_tiny_224": {"depths": [1, 1, 1, 1], "width": 12, "num_heads": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("path", FRAGMENTS["encoder"], ids=lambda path: path.stem)
def test_an_encoder_fragment_swaps_the_encoder(cli: Cli, path: Path) -> None:
    size = [f"--data.views.size={16 if path.stem == 'vit_small_224' else 8}"]
    size += [f"--model.encoder.{name}={value}" for name, value in NARROW.get(path.stem, {}).items()]
    size += ["--trainer.limit_val_batches=0", "--callbacks.online_probe=null", "--callbacks.representation=null"]
    run = cli(["fit", f"--config={CONFIGS / 'quickstart.yaml'}", *SMALL, f"--model.encoder={path}", *size])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["encoder"]["class_path"] == yaml.safe_load(path.read_text())["class_path"]


@pytest.mark.parametrize(
    ("name", "theirs", "without"),
    [
        ("vit_small_224", lambda: VisionTransformer(224, 16, 12, 6, 384, 4 * 384), 2 * 384),  # class token, its place
        ("swin_tiny_224", swin_t, 0),
    ],
)
def test_an_encoder_of_224_pixels_has_as_many_parameters_as_torchvisions(
    name: str, theirs: Callable[[], nn.Module], without: int
) -> None:
    with torch.device("meta"):
        _, encoder = parsed(Encoder, CONFIGS / f"encoder/{name}.yaml")
        trunk = theirs()
    count = {part: sum(weight.numel() for weight in part.parameters()) for part in (encoder, trunk)}
    classifier = 1000 * (encoder.embed_dim + 1)
    assert count[encoder] == count[trunk] - classifier - without
    assert encoder(torch.empty(2, 3, 224, 224, device="meta")).feature_map.shape[2:] == (224 // encoder.stride,) * 2


def test_contrastive_runs_from_fragments_only(cli: Cli) -> None:
    method, views, loss, encoder = (
        CONFIGS / f"{name}.yaml" for name in ("method/contrastive", "views/byol", "loss/dcl", "encoder/fastcnn")
    )
    run = cli(
        [
            *("fit", f"--model={method}", f"--model.encoder={encoder}", f"--model.loss={loss}", *SHAPES),
            *(f"--data.views={views}", "--data.views.size=20", *SMALL, "--model.encoder.width=2"),
        ]
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["loss"]["init_args"] == {"temperature": 0.5, "decoupled": True}
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("path", FRAGMENTS["loss"], ids=lambda path: path.stem)
def test_a_loss_fragment_is_trained_with(cli: Cli, path: Path) -> None:
    small = ["--data.views.size=8", "--model.encoder.width=2", "--model.head.output_dim=8"]
    small += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0", "--callbacks.online_probe=null"]
    small += ["--callbacks.representation=null", "--callbacks.training_monitor=null"]
    run = cli(["fit", f"--config={CONFIGS / 'quickstart.yaml'}", *SMALL, *small, f"--model.loss={path}"])
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    loss = saved["config"]["model"]["init_args"]["loss"]
    assert loss["class_path"] == yaml.safe_load(path.read_text())["class_path"]
    assert math.isfinite(load_run(run).last("train/loss_at_chance"))


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_methods_run_from_fragments_only(cli: Cli, name: str) -> None:
    method, encoder, views = (CONFIGS / f"{part}.yaml" for part in (f"method/{name}", "encoder/fastcnn", "views/byol"))
    small = [f"--model.{head}.hidden_dim=8" for head in ("head", "predictor")]
    data = [*SHAPES, f"--data.views={views}", "--data.views.size=20", *SMALL]
    run = cli(["fit", f"--model={method}", f"--model.encoder={encoder}", "--model.encoder.width=2", *small, *data])
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert saved["state_dict"]["teacher.head.mlp.0.weight"].shape == (8, 16)


def test_rotation_runs_from_fragments_only(cli: Cli) -> None:
    method, encoder = (CONFIGS / f"{name}.yaml" for name in ("method/rotation", "encoder/nin"))
    views = "--data.views=simmim_pl.views.CropFlip"
    run = cli(
        ["fit", f"--model={method}", f"--model.encoder={encoder}", *SHAPES, views, *SMALL, "--model.encoder.width=4"]
    )
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_masked_images_run_from_fragments_only(cli: Cli) -> None:
    method, encoder = CONFIGS / "method/masked_image.yaml", CONFIGS / "encoder/vit_tiny.yaml"
    views = ["--data.views=simmim_pl.views.CropFlip", "--data.views.scale=[0.67,1.0]", "--model.encoder.depth=1"]
    run = cli(["fit", f"--model={method}", f"--model.encoder={encoder}", *SHAPES, *views, *SMALL])
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["mask_token"].shape == (192,)


def parsed(kind: type, *files: Any) -> Any:
    """The config of an argument after these files in order, and the object that it builds."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(kind, "slot")
    config = parser.parse_args([f"--slot={file}" for file in files])
    return config.slot, parser.instantiate_classes(config).slot


@pytest.mark.parametrize("path", FRAGMENTS["views"], ids=lambda path: path.stem)
def test_view_fragments_override_all_settings_of_a_config(path: Path, tmp_path: Path) -> None:
    alone, views = parsed(Views, path)
    for story in STORIES:
        recipe = yaml.safe_load((CONFIGS / f"{story}.yaml").read_text())["data"]["init_args"]["views"]
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert parsed(Views, tmp_path / "recipe.yaml", path)[0] == alone
    image = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    assert views(image, torch.Generator()).shape == (2, 2, 3, views.size, views.size)


def test_byols_views_equal_its_table_6() -> None:
    _, views = parsed(Views, CONFIGS / "views/byol.yaml")
    kinds = [[type(operation).__name__ for operation in operations] for operations in views.operations]
    assert kinds == [
        ["ColorJitter", "Grayscale", "GaussianBlur"],
        ["ColorJitter", "Grayscale", "GaussianBlur", "Solarize"],
    ]
    assert [[operation.probability for operation in each] for each in views.operations] == [
        [0.8, 0.2, 1.0],
        [0.8, 0.2, 0.1, 0.2],
    ]
    assert [each[0].strength for each in views.operations] == [(0.4, 0.4, 0.2, 0.1)] * 2


def test_a_loss_fragment_changes_the_loss_and_not_its_temperature(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{class_path: simmim_pl.losses.NTXent, init_args: {temperature: 0.2}}")
    z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    for path, decoupled in {"nt_xent": False, "dcl": True}.items():
        _, loss = parsed(Loss, tmp_path / "recipe.yaml", CONFIGS / f"loss/{path}.yaml")
        assert loss(z) == nt_xent(z, temperature=0.2, decoupled=decoupled)


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "sigreg"])
def test_a_loss_fragment_replaces_the_configs_loss(tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_text("{class_path: simmim_pl.losses.NTXent, init_args: {temperature: 0.2}}")
    config, loss = parsed(Loss, tmp_path / "recipe.yaml", CONFIGS / f"loss/{name}.yaml")
    said = yaml.safe_load((CONFIGS / f"loss/{name}.yaml").read_text())
    assert config.class_path == said["class_path"]
    assert config.init_args.as_dict() == said["init_args"]  # the fragment has every setting of the class
    assert loss(torch.randn(2, 8, 4)).isfinite()


@pytest.mark.parametrize("path", FRAGMENTS["evaluate"], ids=lambda path: path.stem)
def test_an_evaluation_holds_its_name_its_protocols_and_its_data(path: Path) -> None:
    story = yaml.safe_load(path.read_text())
    assert {"name", "model"} <= story.keys() <= {"name", "model", "data"}
    assert story["name"] == path.stem
    assert {"protocols"} <= story["model"]["init_args"].keys() <= {"protocols", "transfer"}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_first_line_describes_the_config(path: Path) -> None:
    assert re.match(r"# [A-Z].{20,}\n", path.read_text())


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

    for source in (CIFAR10, CIFAR100, OxfordPets, STL10):  # their files are tested elsewhere
        monkeypatch.setattr(source, "prepare", lambda self: None)
        monkeypatch.setattr(source, "load", load)
    for folder in ("images/train", "images/test", "imagenet/train", "imagenet/val"):
        for label in ("a", "b"):
            (tmp_path / "data" / folder / label).mkdir(parents=True)
            for number in range(20):
                image = Image.new("RGB", (40, 32), (number * 9, 0, 0))
                image.save(tmp_path / f"data/{folder}/{label}/{number}.png")
    files = sorted((tmp_path / "data/images").rglob("*.png"))
    rows = [f"{file},{file.parts[-2]},{file.parts[-3]}" for file in files]
    (tmp_path / "data/images.csv").write_text("\n".join(["path,label,split", *rows]))
    if path.stem == "hugging_face":
        datasets = pytest.importorskip("datasets")
        found = {"image": list(map(str, files)), "label": [file.parts[-2] for file in files]}
        table = datasets.Dataset.from_dict(found).cast_column("image", datasets.Image())
        table.class_encode_column("label").save_to_disk(tmp_path / "data/hugging_face")
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (tmp_path / "data/masks" / split / part).mkdir(parents=True)
            for number in range(40):
                value = number % 2 if part == "masks" else 6 * number
                Image.new("L", (40, 32), value).save(tmp_path / f"data/masks/{split}/{part}/{number}.png")
    for number in range(40):
        (tmp_path / "data/microscopy").mkdir(exist_ok=True)
        Image.new("I;16", (40, 32), 100 * number).save(tmp_path / f"data/microscopy/{number}.tif")
    extra = {"shapes": SHAPES, "microscopy": ["--model.encoder.channels=1"]}.get(path.stem, [])
    large = path.stem in ("cifar10", "cifar100", "stl10", "imagenet")
    few = ["--data.validation=10"] if large else []  # the data have fewer images than in the fragments
    drop = [arg for arg in TINY if arg not in SHAPES]
    run = cli([*drop, f"--data={path}", *extra, *few, "--data.batch_size=16", "--trainer.max_epochs=1"])
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert config["source"]["class_path"] == yaml.safe_load(path.read_text())["init_args"]["source"]["class_path"]
    assert config["views"]["class_path"] == "simmim_pl.views.ContrastiveViews"


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_fragment_gives_clips_without_views(monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path) -> None:
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
    """A config with small procedural data sets and short trainings."""
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
    monkeypatch.setattr(STL10, "folds", [torch.arange(first, 100, 2) for first in (0, 1)])
    story = shrunk(yaml.safe_load(path.read_text()))
    if path.stem == "transfer":
        for data in story["model"]["init_args"]["transfer"]:
            data["init_args"]["validation"] = 10  # the file's 5,000 cannot be held out of 100 images
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
    sets["stl10"] = {"STL10"}
    assert {result["data"] for result in card["results"]} == sets.get(path.stem, {source})
    if path.stem == "stl10":
        assert all("std" in result["metrics"]["accuracy"] for result in card["results"])
        assert " ± " in (run / "result.md").read_text()
