"""The model card: read by Hugging Face's own reader, and its lines run as they stand."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult
from torchvision.io import write_png

from simmim_pl import load_encoder
from simmim_pl.evaluation.frozen import digest
from tests.export.conftest import Run, executed
from tests.export.test_results import card


@pytest.fixture
def evaluated(pretrained: Path, tmp_path: Path) -> Path:
    """The tiny run's checkpoint with a result card beside it, and one of other weights."""
    path = tmp_path / "run/last.ckpt"
    path.parent.mkdir()
    shutil.copy(pretrained, path)
    for name, own in (("one", digest(load_encoder(pretrained))), ("old", "f" * 16)):
        (path.parent / f"last.{name}.result.json").write_text(json.dumps(card(own, 0.81234)))
    return path


def test_the_hubs_reader_finds_licence_library_and_results(evaluated: Path, run: Run, tmp_path: Path) -> None:
    printed = run(evaluated, "hub", tmp_path / "out", "--license=apache-2.0")
    assert "last.old.result.json is not in the card: it belongs to other weights.\n" in printed
    read = ModelCard.load(tmp_path / "out/README.md")
    assert (read.data.license, read.data.library_name) == ("apache-2.0", "simmim_pl")
    assert read.data.pipeline_tag == "image-feature-extraction"
    assert {"self-supervised-learning", "Contrastive", "FastCNN", "arxiv:2002.05709"} <= set(read.data.tags)
    assert read.data.metrics == ["accuracy"]
    (result,) = read.data.eval_results
    wanted = EvalResult(
        task_type="image-classification",
        task_name="KNN",
        dataset_type="uoft-cs/cifar10",
        dataset_name="CIFAR10",
        dataset_split="test",
        metric_type="accuracy",
        metric_value=0.81234,
        metric_name="accuracy, %: 81.2 [71.2–91.2]",
    )
    assert result == wanted


def test_a_person_reads_method_data_results_with_intervals_and_the_check(
    evaluated: Path, run: Run, tmp_path: Path
) -> None:
    printed = run(evaluated, "safetensors", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "# FastCNN, pretrained by Contrastive on Shapes\n" in text
    assert "| CIFAR10 | KNN  | accuracy  | 81.2 [71.2–91.2] | 20.0 [10.0–30.0] |" in text
    for line in (
        "- Loss: NTXent(temperature=0.2, decoupled=False)",
        "- Data: Shapes(train=200, test=100, size=16, copies=1, deform=0.08, noise=0.15, seed=0)",
        "- Batch size: 32",
        "- Optimizer steps: 10",
        "- Seed: 0",
    ):
        assert f"{line}\n" in text
    assert "- Encoder: FastCNN(width=2, mean=[0.4914, 0.4822, 0.4465]" in text
    difference = re.search(r"the largest difference from the encoder is (\S+), where", printed)
    assert difference
    assert f"the largest difference is {difference[1]}, where features are up to" in text
    assert "`unknown`: no licence is stated for these weights." in text
    assert ModelCard.load(tmp_path / "out/README.md").data.license == "unknown"
    assert str(tmp_path) not in text
    assert str(Path.cwd()) not in text


def test_without_results_the_card_says_so_and_a_folder_of_images_keeps_its_path(
    pretrained: Path, run: Run, tmp_path: Path
) -> None:
    saved = torch.load(pretrained, weights_only=True)
    path = tmp_path / "secret/flowers"
    folder = {"class_path": "simmim_pl.data.Folder", "init_args": {"root": str(path), "size": 16}}
    saved["config"]["data"]["init_args"]["source"] = folder
    saved["config"]["model"]["class_path"] = "mine.Method"
    path.mkdir(parents=True)
    for number in range(4):
        pixels = torch.randint(256, (3, 16, 16), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        write_png(pixels, str(path / f"{number}.png"))
    torch.save(saved, tmp_path / "last.ckpt")
    assert "Compared on 4 images of Folder, 16×16 pixels" in run(tmp_path / "last.ckpt", "hub", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "- Data: Folder(size=16)\n" in text
    assert "pretrained by Method on flowers" in text
    assert "These weights were not evaluated" in text
    assert "secret" not in text
    assert "arxiv" not in text
    assert ModelCard.load(tmp_path / "out/README.md").data.eval_results is None


@pytest.mark.parametrize("to", ["safetensors", "hub"])
def test_the_cards_lines_load_the_file(
    pretrained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    run(pretrained, to, tmp_path / "out")
    images = torch.rand(2, 3, 16, 16)
    names = executed(tmp_path / "out", images, monkeypatch)
    with torch.no_grad():
        wanted = load_encoder(pretrained)(images)
    assert torch.equal(names["pooled"], wanted.pooled)
    assert torch.equal(names["feature_map"], wanted.feature_map)
