"""A panel of curves: picture, legend with last and best values, numbers, and all of it for the page's script."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from simmim_pl.report import charts
from simmim_pl.report.chance import chance
from simmim_pl.report.run import Run
from simmim_pl.report.svg import colour, dash, line, svg
from simmim_pl.report.tables import numbered, table

ROWS = 12  # of a curve's table
HIGHEST = {
    "val/knn",
    "val/probe",
    "information/infonce",
    "train/contrastive_accuracy",
    "representation/contrastive_accuracy",
}
LOWEST = {"train/loss"}
Curve = tuple[Run, str, str]  # run, metric, what it is called


def panel(runs: Sequence[Run], metrics: Sequence[str], title: str) -> list[Markup]:
    """The curves of one run in one chart, those of several in one for each metric."""
    if len(runs) == 1:
        found = [(runs[0], metric, metric) for metric in metrics if metric in runs[0].history]
        return [figure(found, title, range(len(found)))] if found else []
    drawn = []
    for metric in metrics:
        logged = [number for number, run in enumerate(runs) if metric in run.history]
        if logged:
            found = [(runs[number], metric, runs[number].name) for number in logged]
            drawn.append(figure(found, f"{title}: {metric}", logged, metric))
    return drawn


def figure(curves: Sequence[Curve], title: str, colours: Sequence[int], caption: str = "") -> Markup:
    """One chart."""
    series = [(name, *run.history[metric]) for run, metric, name in curves]
    nothing = blind(curves)
    picture = svg(charts.curves(series, chance=list(nothing), legend=False, colours=colours), title)
    data = [
        {"run": number if caption else 0, "name": name, "colour": colour(number), "dash": dash(number)}
        | {"x": rounded(x, 0), "y": rounded(y, 5)}
        for number, (name, x, y) in zip(colours, series, strict=True)
    ]
    whole = '<figure data-curves="{}">{}<div class="plot">{}</div>{}{}</figure>'
    head = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup()
    shown = json.dumps({"title": title, "series": data, "chance": list(nothing)})
    return Markup(whole).format(
        shown, head, picture, legend(curves, colours, nothing), numbered(numbers(series), title)
    )


def clock(run: Run) -> dict[str, Any]:
    """How the page's script makes epochs and seconds of steps."""
    steps, seconds = run.history.get("train/seconds", (np.zeros(0), np.zeros(0)))
    return {"epoch": run.epoch, "steps": rounded(steps, 0), "seconds": rounded(seconds, 5)}


def rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """At most a thousand values of so many digits; of 0, whole numbers. What is no number is null."""
    kept = charts.thin(values, 1000).tolist()
    if not digits:
        return [round(value) for value in kept]
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in kept]


def legend(curves: Sequence[Curve], colours: Sequence[int], nothing: dict[float, list[str]]) -> Markup:
    """A row a curve, with its last value and, where more or less is better, the best and its step."""
    rows = [["", "last", "best", "at step"]]
    for number, (run, metric, name) in zip(colours, curves, strict=True):
        sample = line(colour(number), dash(number))
        parts = Markup("<wbr>").join(re.split(r"(?<=[/_])", name))  # where a long name may be broken
        rows.append([Markup("{} {}").format(sample, parts), charts.number(run.last(metric)), *best(run, metric)])
    for value, names in nothing.items():
        named = "chance" if len(nothing) == 1 else f"chance, {', '.join(names)}"
        rows.append([Markup("{} {}").format(line("currentColor", "2 4"), named), charts.number(value), "", ""])
    wanted = 4 if any(row[2] for row in rows[1:]) else 2
    return table([row[:wanted] for row in rows], kind="legend")


def blind(curves: Sequence[Curve]) -> dict[float, list[str]]:
    """Values of an encoder that tells nothing apart, and the names of the curves that they are for."""
    found: dict[float, list[str]] = {}
    for run, metric, name in curves:
        if (value := chance(run).get(metric)) is not None:
            found.setdefault(value, []).append(name)
    return found


def best(run: Run, metric: str) -> tuple[str, str]:
    """The best value and its step; nothing where neither more nor less is better."""
    steps, values = run.history[metric]
    if metric not in HIGHEST | LOWEST or not np.isfinite(values).any():
        return "", ""
    at = int(np.nanargmax(values) if metric in HIGHEST else np.nanargmin(values))
    return charts.number(float(values[at])), f"{steps[at]:.0f}"


def numbers(series: Sequence[charts.Series]) -> list[list[str]]:
    """Some of the points of curves as a table: steps evenly over them, and each curve's value at or before them."""
    steps = sorted({float(step) for _, x, _ in series for step in x})
    chosen = steps if len(steps) <= ROWS else [steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)]
    rows = [["step", *(name for name, _, _ in series)]]
    for step in chosen:
        before = [y[x <= step] for _, x, y in series]
        rows.append([f"{step:.0f}", *(charts.number(float(y[-1])) if len(y) else "–" for y in before)])
    return rows
