"""Progress and times of a run, from its files."""

import json
from pathlib import Path

import pytest

from simmim_pl.report.about import format_duration, run_differences, run_facts
from simmim_pl.report.run import Run, load_run

START = {
    "began": "then",
    "steps": 40,
    "device": "cpu × 1",
    "precision": "32-true",
    "code": "abc",
    "versions": {"x": "1"},
}
# Four steps per epoch, two seconds per step, logged at every second step and at the end of each epoch.
METRICS = "epoch,step,train/loss,train/seconds,val/knn\n" + "".join(
    f"{step // 4},{step},1.0,{2 * (step + 1)},\n" + (f"{step // 4},{step},,,0.5\n" if step % 4 == 3 else "")
    for step in range(1, 12, 2)
)


def made(folder: Path, *starts: object, metrics: str = METRICS) -> Run:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "run.json").write_text(json.dumps(starts))
    return load_run(folder)


def test_a_running_run_shows_progress_and_remaining_time(tmp_path: Path) -> None:
    found = run_facts([made(tmp_path / "a/1", START)])
    assert found == {
        **{"Progress": ["step 12 of 40, epoch 3"], "Time": ["24 s taken, about 56 s left"], "Began": ["then"]},
        **{"Device": ["cpu × 1"], "Precision": ["32-true"], "Code": ["abc"], "Versions": ["x 1"]},
    }


def test_a_finished_run_shows_no_remaining_time(tmp_path: Path) -> None:
    found = run_facts([made(tmp_path / "a/1", START | {"ended": 13})])
    assert (found["Progress"], found["Time"]) == (["step 13 of 40, epoch 3.25"], ["24 s taken"])


def test_changes_on_resume_are_listed_in_order(tmp_path: Path) -> None:
    found = run_facts([made(tmp_path / "a/1", START, START | {"code": "def", "steps": None})])
    assert (found["Code"], found["Device"], found["Time"]) == (["abc → def"], ["cpu × 1"], ["24 s taken"])


def test_unknown_values_are_left_out(tmp_path: Path) -> None:
    assert run_facts([made(tmp_path / "a/1", metrics="step\n")]) == {}
    assert run_facts([made(tmp_path / "b/1", metrics="epoch,step,train/loss\n0,3,1.0\n")]) == {"Progress": ["step 4"]}


def test_several_runs_show_their_differences(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"a/{n}", START | {"code": f"c{n}", "versions": {"x": "1", "y": n}}) for n in (1, 2)]
    for run, rate in zip(runs, (0.1, 0.2), strict=True):
        run.config = {"name": "a", "model": {"lr": rate}, "ckpt_path": rate}
    assert run_differences(runs) == {"model.lr": ["0.1", "0.2"], "code": ["c1", "c2"], "y": ["1", "2"]}
    assert run_differences(runs[:1] * 2) == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
