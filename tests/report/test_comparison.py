"""Comparison of the evaluations of several runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from simmim_pl.report import charts
from simmim_pl.report.comparison import scores, side_by_side, tasks
from simmim_pl.report.page import render_page
from simmim_pl.report.run import Run, load_run
from tests.report.test_run import directory
from tests.report.test_tables import rows_of


def result(task: str, value: float, encoder: str = "pretrained", **more: Any) -> dict[str, Any]:
    metrics = {"accuracy": {"value": value, "interval": [value - 0.1, value + 0.1]}}
    return {"task": task, "variant": "", "data": "Pets", "encoder": encoder, "metrics": metrics} | more


def evaluated(folder: Path, *cards: list[dict[str, Any]]) -> Run:
    run = load_run(directory(folder))
    run.cards = [{"command": "c", "data": [], "results": results} for results in cards]
    return run


def test_a_task_is_protocol_variant_metric_and_data_set(tmp_path: Path) -> None:
    iou = {"mean IoU": {"value": 0.3, "interval": [0.2, 0.4]}}
    run = evaluated(
        tmp_path / "some/1",
        [result("KNN", 0.5), result("FewLabels", 0.4, variant="1 %"), result("KNN", 0.1, "untrained")],
        [result("Dense", 0, "teacher", metrics=iou), result("KNN", 0.6, "teacher", data="Cats")],
        [result("KNN", 0.7)],
    )
    found = scores(run)
    assert {task: estimate["value"] for task, estimate in found.items()} == {
        "KNN on Pets": 0.7,  # the last card's
        "FewLabels, 1 % on Pets": 0.4,
        "Dense, mean IoU on Pets": 0.3,
        "KNN on Cats": 0.6,
    }
    run.cards[1]["encoders"] = {"teacher": {"class": "FastCNN", "layer": "net.3"}}
    assert "KNN of layer net.3 on Cats" in scores(run)
    assert tasks([found, {"Other on Pets": {}}]) == [*found, "Other on Pets"]


def test_runs_are_rows_and_each_task_has_a_sorted_chart(tmp_path: Path) -> None:
    runs = [
        evaluated(tmp_path / "a<b>/1", [result("KNN", 0.5), result("FineTune", 0.4)]),
        evaluated(tmp_path / "c/1", [result("KNN", 0.8)]),
        evaluated(tmp_path / "never/1"),
    ]
    html = side_by_side(runs)
    assert html.count("<svg") == 1
    assert rows_of(html) == [
        ["", "KNN on Pets", "FineTune on Pets"],
        ["a<b>/1", "50.0 [40.0–60.0]", "40.0 [30.0–50.0]"],
        ["c/1", "80.0 [70.0–90.0]", "–"],
        ["run", "KNN on Pets"],
        ["c/1", "80.0 [70.0–90.0]"],
        ["a<b>/1", "50.0 [40.0–60.0]"],
    ]
    page = render_page(runs)
    assert html in page
    assert re.search(r'href="#compared"', page)
    assert "Which is best?" not in render_page(runs[::2])  # one of them was evaluated
    assert side_by_side(runs[:1]) == ""


def test_a_chart_has_every_value_with_its_interval() -> None:
    points = np.array([[40.0, 30, 45], [50, 50, 55]])
    figure = charts.intervals(["first", "_$second$"], points, "KNN, %")
    (axes,) = figure.axes
    lines, dots = axes.collections
    np.testing.assert_array_equal(lines.get_segments(), [[[30, 0], [45, 0]], [[50, 1], [55, 1]]])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(dots.get_offsets(), [[40, 0], [50, 1]])
    assert [text.get_text().strip("\u200b") for text in axes.get_yticklabels()] == ["first", r"_\$second\$"]
    assert axes.get_xlabel() == "KNN, %"
