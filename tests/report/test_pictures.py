"""Accuracy against depth: a chart for each metric of layer results, with a line per encoder."""

import re
from pathlib import Path
from typing import Any

from simmim_pl.report.pictures import depth
from simmim_pl.report.run import load_run
from tests.report.test_run import directory
from tests.report.test_tables import rows_of


def result(encoder: str, place: int | None, value: float, task: str = "Depth") -> dict[str, Any]:
    metrics = {"accuracy": {"value": value, "interval": [value - 0.1, value + 0.1]}}
    found = {"task": task, "variant": f"net.{place}", "data": "Pets", "encoder": encoder, "metrics": metrics}
    return found if place is None else found | {"depth": place}


def test_only_results_of_layers_are_in_the_depth_chart(tmp_path: Path) -> None:
    run = load_run(directory(tmp_path / "some/1"))
    assert depth(run) == ""
    layers = [result("pretrained", 1, 0.5), result("pretrained", 2, 0.75), result("<untrained>", 1, 0.25)]
    run.cards = [
        {"command": "c", "results": [*layers, result("pretrained", None, 0.9, "KNN")]},
        {"command": "d", "results": [result("pretrained", 1, 0.6)]},
    ]
    html = depth(run)
    titles = ["some/1: accuracy of Depth on Pets, card 1", "some/1: accuracy of Depth on Pets, card 2"]
    assert re.findall(r"<caption>(.*?)</caption>", html) == titles
    assert rows_of(html) == [
        ["layer", "pretrained", "<untrained>"],
        ["1: net.1", "50.0 [40.0–60.0]", "25.0 [15.0–35.0]"],
        ["2: net.2", "75.0 [65.0–85.0]", "–"],
        ["layer", "pretrained"],
        ["1: net.1", "60.0 [50.0–70.0]"],
    ]
    assert html.count("<li>") == 3  # the encoders of both charts
    assert "accuracy, %" in html
