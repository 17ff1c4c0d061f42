"""A panel of curves shows the logged values in its legend, its table and the page's script."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np

from simmim_pl.report import curves
from simmim_pl.report.run import load_run
from tests.report.test_run import directory
from tests.report.test_tables import rows_of


def data(markup: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(unescape(re.findall(r'data-curves="([^"]*)"', markup)[0]))
    return found


def test_one_run_has_one_chart_and_several_runs_one_chart_per_metric(tmp_path: Path) -> None:
    runs = [load_run(directory(tmp_path / "some" / name)) for name in "12"]
    (alone,) = curves.curve_panel(runs[:1], ["val/knn", "train/loss", "none"], "title")
    assert [each["name"] for each in data(alone)["series"]] == ["val/knn", "train/loss"]
    assert "figcaption" not in alone
    both = curves.curve_panel(runs, ["val/knn", "train/loss", "none"], "title")
    for markup, metric in zip(both, ("val/knn", "train/loss"), strict=True):
        assert f"<figcaption>{metric}</figcaption>" in markup
        assert [(each["name"], each["run"]) for each in data(markup)["series"]] == [("some/1", 0), ("some/2", 1)]
    assert curves.curve_panel(runs, ["none"], "title") == curves.curve_panel(runs[:1], ["none"], "title") == []


def test_a_run_without_the_metric_does_not_change_colours(tmp_path: Path) -> None:
    runs = [load_run(directory(tmp_path / "some" / name)) for name in "12"]
    del runs[0].history["val/knn"]
    (markup,) = curves.curve_panel(runs, ["val/knn"], "title")
    (series,) = data(markup)["series"]
    assert (series["run"], series["colour"]) == (1, "var(--series-1)")
    assert "stroke: var(--series-1)" in markup
    assert "stroke: var(--series-0)" not in markup


def test_the_legend_has_last_and_best_values_with_steps(tmp_path: Path) -> None:
    run = load_run(directory(tmp_path / "some/1"))
    steps = np.arange(5.0)
    run.history |= {
        "val/knn": (steps, np.array([0.1, 0.3, np.nan, 0.3, 0.2])),
        "train/loss": (steps, np.array([3.0, 1.0, 2.0, np.nan, np.nan])),
        "representation/std": (steps, steps),
    }
    head, knn, loss = rows_of(curves.curve_panel([run], ["val/knn", "train/loss"], "t")[0])[:3]
    assert head == ["", "last", "best", "at step"]
    assert knn == ["val/knn", "0.2", "0.3", "1"]
    assert loss == ["train/loss", "–", "1", "1"]
    assert rows_of(curves.curve_panel([run], ["representation/std"], "t")[0])[:2] == [
        ["", "last"],
        ["representation/std", "4"],
    ]


def test_chance_lines_are_named(tmp_path: Path) -> None:
    run = load_run(directory(tmp_path / "some/1"))
    run.observed["classes"] = np.array(list("abcd"))
    (markup,) = curves.curve_panel([run], ["val/knn"], "t")
    assert rows_of(markup)[2] == ["chance", "0.25", "", ""]
    assert data(markup)["chance"] == [0.25]
    other = load_run(directory(tmp_path / "some/2"))
    other.observed["classes"] = np.array(list("ab"))
    told = [row[:2] for row in rows_of(curves.curve_panel([run, other], ["val/knn"], "t")[0])[3:5]]
    assert told == [["chance, some/1", "0.25"], ["chance, some/2", "0.5"]]


def test_the_script_gets_at_most_a_thousand_points_without_nan(tmp_path: Path) -> None:
    run = load_run(directory(tmp_path / "some/1"))
    run.history["train/loss"] = (np.arange(3.0), np.array([1.23456789, np.nan, -1e-9]))
    (series,) = data(curves.curve_panel([run], ["train/loss"], "t")[0])["series"]
    assert (series["x"], series["y"]) == ([0, 1, 2], [1.2346, None, -1e-9])
    run.history["train/loss"] = (np.arange(4000.0), np.arange(4000.0))
    (series,) = data(curves.curve_panel([run], ["train/loss"], "t")[0])["series"]
    assert len(series["x"]) == len(series["y"]) == 1000
    assert series["y"][:2] == [1.5, 5.5]


def test_epochs_and_seconds_are_those_of_the_history(tmp_path: Path) -> None:
    folder = directory(tmp_path / "some/1")
    assert curves.time_axes(load_run(folder)) == {"epoch": 10, "steps": [], "seconds": []}
    table = folder / "metrics.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},train/seconds", *(f"{line},{n}" for n, line in enumerate(lines[1:]))]))
    assert curves.time_axes(load_run(folder)) == {"epoch": 10, "steps": [4, 9, 14, 19], "seconds": [0, 1, 2, 3]}
