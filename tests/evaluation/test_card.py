"""The result card says what was measured, on what, with what; the same run gives the same results."""

import json
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import simmim_pl
from simmim_pl.checkpoint import load_encoder
from simmim_pl.data import Images, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import KNN
from simmim_pl.evaluation.card import table
from simmim_pl.evaluation.frozen import digest
from tests.conftest import CONFIGS, QUIET, SHAPES

Command = Callable[[list[str]], Path]


def judge(cli: Command, name: str, checkpoint: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    evaluation = f"--config={CONFIGS / 'evaluate' / name}.yaml"
    folder = cli(["fit", evaluation, *SHAPES, *QUIET, f"--model.checkpoint={checkpoint}", *more])
    return folder, json.loads((folder / "result.json").read_text())


def test_the_card_says_what_was_measured_on_what_with_what(
    cli: Command, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["simmim_pl", "fit", "--one", "two"])
    _, card = judge(cli, "linear", pretrained)
    assert card.keys() == {
        *("task", "data", "images", "checkpoint", "encoder_hash", "results", "command", "versions", "device")
    }
    assert (card["task"], card["data"], card["device"]) == ("LinearProbe", "Shapes", "cpu")
    assert card["images"] == {"train": 180, "validation": 20, "test": 100}
    assert card["checkpoint"] == str(pretrained)
    assert card["command"] == "python -m simmim_pl fit --one two"
    assert card["versions"]["torch"] == torch.__version__
    assert card["versions"]["python"] == platform.python_version()
    assert card["versions"]["simmim_pl"] == simmim_pl.__version__
    assert list(card["results"]) == ["pretrained", "untrained", "raw pixels"]
    for result in card["results"].values():
        assert result.keys() == {"accuracy", "width", "l2", "validation accuracy by l2"}
        assert 0 <= result["accuracy"] <= 1
        assert f"{result['l2']:g}" in result["validation accuracy by l2"]


def test_the_hash_is_of_the_encoders_that_were_judged(cli: Command, pretrained: Path) -> None:
    for baselines in ("false", "true"):
        _, card = judge(cli, "knn", pretrained, f"--model.baselines={baselines}")
        assert card["encoder_hash"] == digest(load_encoder(str(pretrained), trained=True))
        assert card["encoder_hash"] != digest(load_encoder(str(pretrained), trained=False))


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_the_same_run_gives_the_same_results(cli: Command, pretrained: Path, name: str) -> None:
    first, card = judge(cli, name, pretrained)
    second, again = judge(cli, name, pretrained)
    assert first != second
    assert again == card


def test_what_is_printed_is_what_is_written(cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, card = judge(cli, "knn", pretrained)
    printed = capsys.readouterr().out
    assert table(card) in printed
    assert f"Written to {folder.relative_to(Path.cwd())}/result.json" in printed
    rows = re.findall(r"^\| (\w[\w ]*?) +\| +(\d+) \| +([\d.]+) % \|$", table(card), re.MULTILINE)
    assert [(name, int(width)) for name, width, _ in rows] == [
        (name, result["width"]) for name, result in card["results"].items()
    ]
    for (_, _, percent), result in zip(rows, card["results"].values(), strict=True):
        assert float(percent) == pytest.approx(100 * result["accuracy"], abs=0.05)


def test_every_line_of_the_table_is_as_wide() -> None:
    results = {"a": {"accuracy": 1.0, "width": 8}, "raw pixels": {"accuracy": 0.123, "width": 30_000}}
    lines = table({"task": "T", "data": "D", "images": {"test": 1}, "results": results}).splitlines()
    assert lines[0] == "T on D: 1 test images"
    assert len({len(line) for line in lines[1:]}) == 1
    assert "100.0 %" in lines[3]
    assert "12.3 %" in lines[4]


def test_without_a_logger_the_card_is_printed_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    runner = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, enable_checkpointing=False, **quiet)
    module = KNN(k=3, encoder=FastCNN(2))
    images = Images(Shapes(train=20, test=10, size=16, copies=1), batch_size=8, validation=10)
    runner.fit(module, datamodule=images)
    runner.test(module, datamodule=images, verbose=False)
    assert "KNN on Shapes: 10 train, 10 validation, 10 test images" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
