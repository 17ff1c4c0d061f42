"""The report exists at the end, is refreshed within a time budget, and never stops the run."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from simmim_pl.callbacks import EmbeddingMap, Report
from simmim_pl.callbacks.report import began
from simmim_pl.evaluation.card import code_version, versions
from simmim_pl.report.observed import observed
from simmim_pl.report.starts import FILE_NAME, load_starts
from simmim_pl.runtime.atomic import WriteError
from tests.callbacks.test_online_probe import fit, method
from tests.conftest import TINY
from tests.ranks import run


def logged(root: Path) -> dict[str, Any]:
    return {"logger": CSVLogger(root, name="", version="run")}


def drawings(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """The length of ``metrics.csv`` at every drawing, each of which takes that long; a validation comes every 100 s."""
    drawn: list[int] = []
    clock = SimpleNamespace(now=0.0)

    def write(folders: list[Path], path: Path) -> None:
        drawn.append(len((folders[0] / "metrics.csv").read_text().splitlines()))
        clock.now += seconds

    before = Report.on_validation_end

    def later(self: Report, *args: Any) -> None:
        clock.now += 100
        before(self, *args)

    monkeypatch.setattr("simmim_pl.report.page.write_report", write)
    monkeypatch.setattr("simmim_pl.callbacks.budget.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(Report, "on_validation_end", later)
    return drawn


@pytest.mark.parametrize(
    ("seconds", "share", "times"),
    [(0.5, 0.02, 7), (3.0, 0.02, 4), (50.0, 0.02, 2), (0.5, 0.0, 1), (1000.0, 100.0, 7)],
)
def test_drawing_stays_within_its_time_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, share: float, times: int
) -> None:
    drawn = drawings(monkeypatch, seconds)
    fit(tmp_path, Report(share), max_epochs=6, log_every_n_steps=1, **logged(tmp_path))
    assert len(drawn) == times  # of six validations, and the end
    assert drawn[-1] == 31  # every step is written out before the drawing
    assert drawn == sorted(drawn)


def test_without_a_logger_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, Report())
    assert not list(tmp_path.iterdir())


@pytest.mark.drawn
def test_observations_are_saved(tmp_path: Path) -> None:
    fit(tmp_path, EmbeddingMap(), Report(), log_every_n_steps=1, **logged(tmp_path))
    (run_directory,) = (path.parent for path in tmp_path.rglob("metrics.csv"))
    (run_directory / "config.yaml").write_text("name: some")
    assert observed(run_directory)["step"] == 10
    assert "Nearest neighbours" in (run_directory / "report.html").read_text()


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: Any) -> None:
        raise WriteError(28, "No space left on device", str(path))

    monkeypatch.setattr("simmim_pl.runtime.atomic.write", full)
    with pytest.raises(WriteError, match="No space left"):
        fit(tmp_path, EmbeddingMap(), Report(), **logged(tmp_path))


def test_every_start_of_a_run_is_recorded(tmp_path: Path) -> None:
    fit(tmp_path, Report(), max_epochs=2, **logged(tmp_path))
    (folder,) = (path.parent for path in tmp_path.rglob(FILE_NAME))
    (start,) = load_starts(folder)
    assert (start["steps"], start["ended"]) == (10, 10)
    assert (start["device"], start["precision"]) == ("cpu × 1", "32-true")
    assert start["versions"] == versions()
    assert start["code"] == code_version()
    fit(tmp_path, Report(), max_epochs=-1, max_steps=3, **logged(tmp_path))
    assert [(start["steps"], start["ended"]) for start in load_starts(folder)] == [(10, 10), (3, 3)]


def test_a_run_without_an_end_has_no_number_of_steps() -> None:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    known = {"estimated_stepping_batches": math.inf, "world_size": 2, "precision": "16-mixed"}
    start = began(Mock(Trainer, strategy=strategy, **known))
    assert start["steps"] is None
    assert start["device"] == "cpu × 2"


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), KeyError("results"), ValueError("odd")])
def test_a_failing_report_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr("simmim_pl.runtime.atomic.write", fail)
    with pytest.warns(UserWarning, match=rf"report.html was not written \({type(error).__name__}"):
        trainer = fit(tmp_path, EmbeddingMap(), Report(), **logged(tmp_path))
    assert trainer.global_step == 10


@pytest.mark.drawn
def test_the_training_is_the_same_without_the_report(tmp_path: Path) -> None:
    one, other = method(), method()
    fit(tmp_path, module=one)
    fit(tmp_path, EmbeddingMap(), Report(1000), module=other, log_every_n_steps=1, **logged(tmp_path))
    assert list(tmp_path.rglob("report.html"))
    assert all((value == other.state_dict()[name]).all() for name, value in one.state_dict().items())


def test_only_one_of_two_ranks_writes_whatever_their_clocks(tmp_path: Path) -> None:
    often = ["--callbacks.report.share=0.3"]
    run(2, [[*TINY, *often, "--trainer.max_epochs=10", "--trainer.check_val_every_n_epoch=1"]], tmp_path)
    assert len(list(tmp_path.rglob("report.html"))) == 1
