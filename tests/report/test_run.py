"""Run directories are read back correctly."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from simmim_pl.contracts import InputError
from simmim_pl.report.observed import keep, observed
from simmim_pl.report.run import load_run
from simmim_pl.report.starts import add_start

file = io.BytesIO()
np.savez_compressed(file, a=np.arange(1000))
ZIP = file.getvalue()
COLUMNS = [
    *("epoch", "step", "train/loss", "val/knn", "representation/std", "representation/directions"),
    *("train/loss_at_chance", "train/progress", "information/infonce_untrained", "information/infonce"),
    "information/ceiling",
]
METRICS = f"""{",".join(COLUMNS)}
0,4,3.5,,,,6.2,0.25,,,
0,9,,0.2,0.5,5.0,,,0.1,1.0,6.2
1,14,2.5,,,,6.2,0.75,,,
1,19,,0.4,{{std}},5.0,,,0.1,1.2,6.2
"""


def directory(place: Path, std: float = 0.9) -> Path:
    """A run directory of two validations."""
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("name: some\nseed_everything: 3\n")
    (place / "metrics.csv").write_text(METRICS.format(std=std))
    return place


def test_history_has_each_metric_at_its_steps(tmp_path: Path) -> None:
    run = load_run(directory(tmp_path / "some/1"))
    assert run.name == "some/1"
    assert run.config == {"name": "some", "seed_everything": 3}
    assert [values.tolist() for values in run.history["val/knn"]] == [[9, 19], [0.2, 0.4]]
    assert [values.tolist() for values in run.history["train/loss"]] == [[4, 14], [3.5, 2.5]]
    assert (run.first("val/knn"), run.last("val/knn")) == (0.2, 0.4)
    assert np.isnan(run.last("nothing"))
    assert run.cards == []
    assert run.views is None


@pytest.mark.parametrize(("first", "last", "state"), [(0.5, 0.9, "learning"), (0.0, 0.0, "complete collapse")])
def test_a_verdict_needs_two_validations(tmp_path: Path, first: float, last: float, state: str) -> None:
    folder = directory(tmp_path / "some/1", last)
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("0.2,0.5,", f"0.2,{first},"))
    assert load_run(folder).verdict().state == state


@pytest.mark.parametrize("stds", [(0.5, 0.0), (0.0, 0.5)])
def test_one_bad_validation_is_neither_a_collapse_nor_learning(tmp_path: Path, stds: tuple[float, float]) -> None:
    folder = directory(tmp_path / "some/1", stds[1])
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("0.2,0.5,", f"0.2,{stds[0]},"))
    assert load_run(folder).verdict().state == "cannot tell"


def test_one_validation_gives_only_a_preliminary_state(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1", 0.0)
    table = folder / "metrics.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("0,9,")))
    assert len(load_run(folder).validations()) == 1
    verdict = load_run(folder).verdict()
    assert verdict.state == "too early to tell"
    assert "complete collapse: all images are at nearly the same point" in verdict.against[0]


def test_a_validation_has_the_metrics_logged_so_far(tmp_path: Path) -> None:
    first, last = load_run(directory(tmp_path / "some/1")).validations()
    assert (first["step"], first["train/loss"], first["val/knn"]) == (10, 3.5, 0.2)
    assert (last["step"], last["train/loss"], last["val/knn"]) == (20, 2.5, 0.4)
    (tmp_path / "some/1/metrics.csv").write_text("step,train/loss\n4,3.5\n")
    assert load_run(tmp_path / "some/1").validations() == []


@pytest.mark.parametrize(("steps", "shares"), [(40, [0.25, 0.5]), (None, [0.25, 0.75])])
def test_progress_is_relative_to_all_steps_or_as_logged(tmp_path: Path, steps: int | None, shares: list[float]) -> None:
    folder = directory(tmp_path / "some/1")
    add_start(folder, {"steps": steps})
    assert [metrics["train/progress"] for metrics in load_run(folder).validations()] == shares


def test_a_finished_run_without_logged_steps_is_not_early(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1")
    (folder / "metrics.csv").write_text("step,representation/std\n9,0.5\n19,0.5\n")
    assert load_run(folder).verdict().state == "too early to tell"
    add_start(folder, {"steps": 20})
    assert load_run(folder).verdict().state == "cannot tell"


def test_an_incomplete_line_is_ignored(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1")
    with (folder / "metrics.csv").open("a") as file:
        file.write("2,24,1.5")
    assert load_run(folder).last("train/loss") == 1.5


def test_cards_of_the_run_and_of_its_checkpoints_are_read(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1")
    (folder / "checkpoints").mkdir()
    for place, command in ((folder / "result.json", "own"), (folder / "checkpoints/last.x.result.json", "beside")):
        place.write_text(json.dumps({"command": command, "results": []}))
    for name in ("last.methods-20260101-090000-aaaa", "last.knn-20260301-080000-bbbb"):
        (folder / f"checkpoints/{name}.result.json").write_text(json.dumps({"command": name[5:8], "results": []}))
    # The run's own card, then the copies in order of creation.
    assert [card["command"] for card in load_run(folder).cards] == ["own", "beside", "met", "knn"]


def test_observations_are_read_back(tmp_path: Path) -> None:
    keep(tmp_path, {"positive": np.arange(4), "classes": ["a", "bé"], "step": 7})
    found = observed(tmp_path)
    assert found["positive"].tolist() == [0, 1, 2, 3]
    assert found["classes"].tolist() == ["a", "bé"]
    assert found["step"] == 7
    assert observed(tmp_path / "other") == {}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("observed.npz", b"half", "observed.npz cannot be read"),
        ("observed.npz", ZIP[:-30], "observed.npz cannot be read"),
        ("observed.npz", ZIP[:40] + b"x" * 40 + ZIP[80:], "observed.npz cannot be read"),
        ("config.yaml", b"a: [", "cannot be read"),
        ("metrics.csv", b"step,train/loss\n1,two\n", "cannot be read"),
        ("metrics.csv", b"step,train/loss\n1," + b"1" * 200_000, "field larger than field limit"),
        ("result.json", b"{", "cannot be read"),
        ("result.json", b"{}", r"result\.json is not a result card"),
        ("result.json", b"[]", r"result\.json is not a result card"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    folder = directory(tmp_path / "some/1")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        load_run(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory: give one like"):
        load_run(tmp_path)


def test_labelled_sets_alone_make_a_validation(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1")
    (folder / "metrics.csv").write_text("step,val/knn/pets,val/chance/pets\n9,0.2,0.1\n12,,0.1\n19,0.3,0.1\n")
    assert [found["val/knn/pets"] for found in load_run(folder).validations()] == [0.2, 0.3]
