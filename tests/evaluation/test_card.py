"""The result card records results, data and encoder; the same command gives the same card."""

import csv
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

import simmim_pl
from simmim_pl.data import HeldOut, ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import KNN, Evaluation
from simmim_pl.evaluation import card as page
from simmim_pl.evaluation.card import code_version, copy_beside, described_source, number_alike, scalars, write
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.table import aligned, shown, table
from simmim_pl.runtime.checkpoint import load_encoder
from tests.conftest import CONFIGS, QUIET, SHAPES

Command = Callable[[list[str]], Path]
TWO = '--model.protocols=[{"class_path":"simmim_pl.evaluation.KNN","init_args":{"k":[3,5]}}, \
{"class_path":"simmim_pl.evaluation.FewLabels","init_args":{"shares":[0.5],"per_class":[2],"draws":2}}]'


def strictly(text: str) -> dict[str, Any]:
    """Parse strict JSON, without NaN and Infinity."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def command(checkpoint: Path, *more: str) -> list[str]:
    config = f"--config={CONFIGS / 'evaluate/knn.yaml'}"
    return ["validate", config, *SHAPES, *QUIET, TWO, f"--model.checkpoint={checkpoint}", *more]


@pytest.fixture
def moved(pretrained: Path, tmp_path: Path) -> Path:
    """The checkpoint in the test's own folder, for copies of results."""
    path = tmp_path / "trained/last.ckpt"
    path.parent.mkdir()
    path.write_bytes(pretrained.read_bytes())
    return path


def timeless(part: Any) -> Any:
    """A card without the times, at any depth."""
    if isinstance(part, dict):
        return {key: timeless(value) for key, value in part.items() if key != "wall_time_seconds"}
    return [timeless(each) for each in part] if isinstance(part, list) else part


def times(part: Any) -> list[float]:
    """All times of a card."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    own = [part["wall_time_seconds"]] if isinstance(part, dict) and "wall_time_seconds" in part else []
    return own + [time for each in inner for time in times(each)]


def test_the_card_is_complete_and_reproducible(
    cli: Command, moved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["simmim_pl", "validate", "--one", "[1, 2]"])
    runs = [cli(command(moved)) for _ in range(2)]  # the second uses the cached features of the first
    runs.append(cli(command(moved, "--model.cache=false")))
    cards = [strictly((run / "result.json").read_text()) for run in runs]
    card = cards[0]

    assert card.keys() == {
        *("checkpoint", "encoders", "data", "results", "seed", "command", "code", "versions"),
        *("device", "precision", "wall_time_seconds"),
    }
    assert (card["checkpoint"], card["seed"], card["device"]) == (str(moved), 0, "cpu × 1")
    assert card["precision"] == "32-true"
    assert card["command"] == "python -m simmim_pl validate --one '[1, 2]'"
    assert card["code"] == code_version()
    assert card["versions"]["torch"] == version("torch")
    assert card["versions"]["python"] == platform.python_version()
    assert card["versions"]["simmim_pl"] == simmim_pl.__version__
    assert list(card["encoders"]) == ["pretrained", "untrained", "raw pixels"]
    assert card["encoders"]["pretrained"] == {
        "class": "FastCNN",
        "hash": digest(load_encoder(str(moved), trained=True)),
        **{"embed_dim": 16, "feature_map_channels": 16, "stride": 8, "pool": 1},
    }
    (data,) = card["data"]
    assert data["items"] == {"train": 180, "validation": 20, "test": 100}
    assert data["digest"]["test"] == Shapes(train=200, test=100, size=16, copies=1).load("test").digest()
    assert (data["name"], data["source"]["class"], data["split_seed"]) == ("Shapes", "Shapes", 0)
    assert (data["source"]["size"], data["source"]["noise"], data["validation"]) == (16, 0.15, 0.1)
    for result in card["results"]:
        assert result.keys() == {
            *("task", "variant", "data", "encoder", "metrics", "per_class", "confusion", "chosen", "protocol"),
            "wall_time_seconds",
        }
        accuracy = result["metrics"]["accuracy"]
        assert 0 <= accuracy["interval"][0] <= accuracy["value"] <= accuracy["interval"][1] <= 1
        assert len(result["per_class"]) == len(result["confusion"]) == 10
        assert sum(map(sum, result["confusion"])) == 100
        diagonal = sum(row[label] for label, row in enumerate(result["confusion"]))
        assert diagonal / 100 == pytest.approx(accuracy["value"])
        assert "data" not in result["protocol"]
    assert len(card["results"]) == 3 * 3

    # The same command gives the same card except for times, with and without cached features.
    assert timeless(cards[0]) == timeless(cards[1]) == timeless(cards[2])
    assert len(times(card)) == 1 + 9
    assert all(time >= 0 for time in times(card))

    # The printed table is written, and copies are next to the checkpoint, one per run.
    printed = capsys.readouterr().out
    names = set()
    for run, own in zip(runs, cards, strict=True):
        assert (run / "result.md").read_text() == f"{table(own)}\n"
        copy = moved.with_name(f"last.{run.parent.name}-{run.name}.result")
        for ending in ("json", "md"):
            beside = copy.with_name(f"{copy.name}.{ending}")
            assert beside.read_text() == (run / f"result.{ending}").read_text()
            names.add(beside.name)
        assert f"Written to {run.relative_to(Path.cwd())}/result.json and .md" in printed
    assert printed.count(table(card)) == 3
    assert {path.name for path in moved.parent.iterdir()} == {"last.ckpt", *names}
    assert len(names) == 2 * 3

    # Every value is among the logged metrics.
    with (runs[0] / "metrics.csv").open() as file:
        logged = next(row for row in csv.DictReader(file) if row.get("test/Shapes/KNN/pretrained/accuracy"))
    for name, value in scalars(card["results"]):
        assert float(logged[name]) == pytest.approx(value, abs=1e-6)


def trainer(root: Path, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=root, limit_val_batches=2, **{**quiet, **options})


def test_without_a_logger_the_card_is_printed_and_not_written(
    tmp_path: Path, pretrained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = sorted(pretrained.parent.iterdir())
    images = ImageDataModule(Shapes(train=20, test=10, size=16, copies=1), batch_size=8, validation=10)
    module = Evaluation([KNN(k=[3])], checkpoint=str(pretrained), baselines=False)
    trainer(tmp_path, logger=False).validate(module, datamodule=images, verbose=False)
    printed = capsys.readouterr().out
    assert "Shapes: 10 train, 10 validation, 10 test" in printed
    assert "Written" not in printed
    assert module.card["results"][0]["task"] == "KNN"
    assert not list(tmp_path.iterdir())
    assert sorted(pretrained.parent.iterdir()) == beside


def test_a_given_encoder_gets_no_card_copy_next_to_a_checkpoint(tmp_path: Path) -> None:
    images = ImageDataModule(Shapes(train=20, test=10, size=16, copies=1), batch_size=8, validation=10)
    module = Evaluation([KNN(k=[3])], encoder=FastCNN(2), baselines=False)
    trainer(tmp_path).validate(module, datamodule=images, verbose=False)
    assert module.card["checkpoint"] is None
    assert len(list(tmp_path.rglob("*.json"))) == len(list(tmp_path.rglob("*.md"))) == 1


def result(encoder: str, value: float = 0.5, task: str = "KNN", **more: Any) -> dict[str, Any]:
    metrics = {"accuracy": {"value": value, "interval": [value - 0.1, value + 0.1]}}
    return {"task": task, "variant": "", "data": "Shapes", "encoder": encoder, "metrics": metrics, **more}


def carded(*results: dict[str, Any]) -> dict[str, Any]:
    return {"data": [{"name": "Shapes", "items": {"train": 2, "validation": 1, "test": 3}}], "results": list(results)}


def test_an_unwritable_checkpoint_folder_costs_only_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_card: dict[str, Any], _path: Path) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(page, "write", full)
        with pytest.warns(UserWarning, match=r"could not be copied next to .*last\.ckpt \(Read-only file system\)"):
            copy_beside(carded(), tmp_path / "last.ckpt", tmp_path / "knn/1")
    assert "next to" not in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be copied next to"):  # and if the folder does not exist
        copy_beside(carded(), tmp_path / "file/last.ckpt", tmp_path / "knn/1")


def test_cards_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(carded(result("given", 0.25)), tmp_path / "new/result")
    before = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert before.keys() == {"result.json", "result.md"}
    assert strictly(before["result.json"]) == carded(result("given", 0.25))

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(carded(result("given", 0.75)), tmp_path / "new/result")
    assert {name: (tmp_path / "new" / name).read_text() for name in before} == before


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="|"), max_size=8)


@given(rows=st.integers(1, 4).flatmap(lambda wide: st.lists(st.lists(CELLS, min_size=wide, max_size=wide), min_size=1)))
@settings(deadline=None, max_examples=40)
def test_table_rows_have_equal_width_and_their_cells(rows: list[list[str]]) -> None:
    lines = aligned(rows)
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, sign in enumerate(line) if sign == "|") for line in lines}) == 1
    assert set(lines.pop(1)) == {"|", "-"}
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == rows


def test_an_encoder_that_a_protocol_does_not_evaluate_has_a_dash() -> None:
    lines = table(carded(result("given"), result("raw pixels", 0.25), result("given", task="FineTune"))).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert cells[0] == ["data", "task", "metric, %", "given", "raw pixels"]
    assert cells[2:] == [
        ["Shapes", "KNN", "accuracy", "50.0 [40.0–60.0]", "25.0 [15.0–35.0]"],
        ["Shapes", "FineTune", "accuracy", "50.0 [40.0–60.0]", "–"],
    ]


def test_a_value_is_shown_with_its_interval_and_the_spread_over_repeats() -> None:
    estimate = {"value": 0.12345, "interval": [0.1, 0.2]}
    assert shown(estimate) == "12.3 [10.0–20.0]"
    assert shown({**estimate, "std": 0.0106}) == "12.3 ± 1.1 [10.0–20.0]"


def test_variants_and_metrics_have_their_own_rows_and_scalars() -> None:
    dense = result("raw pixels", task="DenseProbe")
    dense["metrics"] = {"mean IoU": {"value": 0.2, "interval": [0.1, 0.3]}, **dense["metrics"]}
    entries = [result("given", 0.4, task="FewLabels", variant="1 % of labels"), dense]
    assert dict(scalars(entries)) == {
        "test/Shapes/FewLabels_1_%_of_labels/given/accuracy": 0.4,
        "test/Shapes/DenseProbe/raw_pixels/mean_IoU": 0.2,
        "test/Shapes/DenseProbe/raw_pixels/accuracy": 0.5,
    }
    text = table(carded(*entries))
    assert re.search(r"\| FewLabels, 1 % of labels +\| accuracy +\| 40\.0", text)
    assert re.search(r"\| DenseProbe +\| mean IoU +\| – +\| 20\.0", text)


def test_results_with_equal_names_are_numbered() -> None:
    entries = [
        *(result("given", 0.1), result("given", 0.2), result("raw pixels", 0.3), result("raw pixels", 0.4)),
        *(result("given", 0.5, variant="half"), result("given", 0.6, variant="half"), result("given", 0.7)),
    ]
    number_alike(entries)
    assert [each["variant"] for each in entries] == ["", "(2)", "", "(2)", "half", "half (2)", "(3)"]
    assert sorted(dict(scalars(entries)).values()) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert len(table(carded(*entries)).splitlines()) == 3 + 5


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    args = ["git", "-C", str(folder), *identity, *command]
    return subprocess.run(args, capture_output=True, text=True, check=True).stdout.strip()


def test_the_code_version_is_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "project/simmim_pl/__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("first")
    monkeypatch.setattr(simmim_pl, "__file__", str(module))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set if a git hook runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert code_version() is None
    git(tmp_path / "project", "init", "--quiet")
    (tmp_path / "project/README.md").write_text("")
    git(tmp_path / "project", "add", "README.md")
    git(tmp_path / "project", "commit", "--quiet", "--message=one")
    assert code_version() is None  # a virtual environment inside another project's checkout
    git(tmp_path / "project", "add", "simmim_pl")
    git(tmp_path / "project", "commit", "--quiet", "--message=two")
    commit = git(tmp_path / "project", "rev-parse", "HEAD")
    assert code_version() == commit
    (tmp_path / "project/runs").write_text("results are not code")
    assert code_version() == commit
    module.write_text("second")
    assert code_version() == f"{commit} with changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() is None  # without git


def test_a_wrapped_source_is_described_with_its_wrapper() -> None:
    found = described_source(HeldOut(Shapes(train=100, seed=3), share=0.2))
    assert (found["class"], found["share"], found["seed"]) == ("HeldOut", 0.2, 0)
    assert (found["source"]["class"], found["source"]["seed"]) == ("Shapes", 3)
