"""The page: what is wrong, if anything, then every panel of ``panels.yaml``, runs side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simmim_pl import durable
from simmim_pl.report import charts
from simmim_pl.report.pictures import PICTURES, chart
from simmim_pl.report.run import Run, read

ROWS = 12  # of a curve's table


def write(folders: Sequence[Path], path: Path) -> None:
    """Write the report of one run or several to a file of its own, whole or not at all.

    Raises:
        InputError: a folder is no run directory, or cannot be read.
        OSError: the file cannot be written.
    """
    text = page([read(folder) for folder in folders])
    durable.write(path, lambda file: file.write(text.encode()))


def page(runs: Sequence[Run]) -> str:
    """The whole page as HTML."""
    pages = Environment(loader=PackageLoader("simmim_pl.report", ""), autoescape=True, undefined=StrictUndefined)
    sections = [(name, [panel for panel in panels if panel[2]]) for name, panels in filled(runs)]
    return pages.get_template("page.html").render(
        title=" and ".join(run.name for run in runs),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        verdicts=[(run.name, run.verdict(), learned(run)) for run in runs if "train/loss" in run.history],
        runs=runs,
        sections=[(name, panels) for name, panels in sections if panels],
        colours=charts.COLOURS,
    )


def filled(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str, list[Markup], bool]]]]:
    """Sections of panels of ``panels.yaml``: title, how to read it, its pictures, whether it takes a whole line."""
    spec: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))

    def fill(panel: dict[str, Any]) -> tuple[str, str, list[Markup], bool]:
        return panel["title"], panel["read"], list(filter(None, pictures(panel, runs))), panel.get("wide", False)

    return [(section["section"], [fill(panel) for panel in section["panels"]]) for section in spec]


def pictures(panel: dict[str, Any], runs: Sequence[Run]) -> list[Markup]:
    """The curves of one run in one chart, those of several in one for each metric; or a picture of each run."""
    if "picture" in panel:
        return [PICTURES[panel["picture"]](run) for run in runs]
    if len(runs) == 1:
        found = [(metric, *runs[0].history[metric]) for metric in panel["metrics"] if metric in runs[0].history]
        return [chart(charts.curves(found), panel["title"], numbers(found))] if found else []
    drawn = []
    for metric in panel["metrics"]:
        found = [(run.name, *run.history[metric]) for run in runs if metric in run.history]
        if found:
            drawn.append(chart(charts.curves(found, metric), f"{panel['title']}: {metric}", numbers(found)))
    return drawn


def numbers(series: Sequence[charts.Series]) -> list[list[str]]:
    """Some of the points of curves as a table: steps evenly over them, and each curve's value at or before them."""
    steps = sorted({float(step) for _, x, _ in series for step in x})
    chosen = steps if len(steps) <= ROWS else [steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)]
    rows = [["step", *(name for name, _, _ in series)]]
    for step in chosen:
        before = [y[x <= step] for _, x, y in series]
        rows.append([f"{step:.0f}", *(charts.number(float(y[-1])) if len(y) else "–" for y in before)])
    return rows


def learned(run: Run) -> list[tuple[str, str]]:
    """The few numbers that say whether a run learns, each with where it came from."""
    found = []
    for name, metric in (("kNN accuracy on validation", "val/knn"), ("Linear probe on validation", "val/probe")):
        if metric in run.history:
            found.append((name, f"{100 * run.last(metric):.1f} %, at first {100 * run.first(metric):.1f} %"))
    if "information/infonce" in run.history:
        bound, ceiling = run.last("information/infonce"), run.last("information/ceiling")
        at = charts.number(run.first("information/infonce"))
        text = f"{charts.number(bound)} nats of at most {charts.number(ceiling)}, at first {at}"
        found.append(("Information that views share (InfoNCE)", text))
    if "representation/std" in run.history:
        spread, directions = run.last("representation/std"), run.last("representation/directions")
        found.append(("Spread of projections, 1 is even", charts.number(spread)))
        found.append(("Directions that projections use", charts.number(directions)))
    if "train/loss" in run.history:
        found.append(("Loss", f"{run.last('train/loss'):.3f}, at first {run.first('train/loss'):.3f}"))
    return found
