"""A panel of curves: chart, legend with last and best values, table of numbers, and the data as JSON for the script."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from simmim_pl.report import charts
from simmim_pl.report.chance import chance_levels
from simmim_pl.report.run import Run
from simmim_pl.report.svg import line_sample, series_colour, series_dash, to_svg
from simmim_pl.report.tables import collapsed_table, html_table

TABLE_ROWS = 12  # at most, in the table of a chart
HIGHEST = {  # metrics for which higher is better
    "val/knn",
    "val/probe",
    "information/infonce",
    "train/contrastive_accuracy",
    "train/rotation_accuracy",
    "representation/contrastive_accuracy",
}
OF_SETS = ("val/knn/", "val/linear/")  # the same, each followed by the name of a labelled set
LOWEST = {"train/loss"}  # metrics for which lower is better
Curve = tuple[Run, str, str]  # run, metric, label


def curve_panel(runs: Sequence[Run], metrics: Sequence[str], title: str) -> list[Markup]:
    """Charts of a panel: one chart for one run, one chart per metric for several runs."""
    if len(runs) == 1:
        found = [(runs[0], metric, metric) for metric in metrics if metric in runs[0].history]
        return [curve_figure(found, title, range(len(found)))] if found else []
    drawn = []
    for metric in metrics:
        logged = [number for number, run in enumerate(runs) if metric in run.history]
        if logged:
            found = [(runs[number], metric, runs[number].name) for number in logged]
            drawn.append(curve_figure(found, f"{title}: {metric}", logged, metric))
    return drawn


def curve_figure(curves: Sequence[Curve], title: str, colours: Sequence[int], caption: str = "") -> Markup:
    """One chart as an HTML figure.

    Args:
        curves: to be drawn.
        title: of the chart.
        colours: number of each curve's colour.
        caption: shown above the chart if it compares runs.
    """
    series = [(name, *run.history[metric]) for run, metric, name in curves]
    levels = chance_lines(curves)
    picture = to_svg(charts.curves(series, chance=list(levels), legend=False, colours=colours), title)
    data = [
        {"run": number if caption else 0, "name": name, "colour": series_colour(number), "dash": series_dash(number)}
        | {"x": round_values(x, 0), "y": round_values(y, 5)}
        for number, (name, x, y) in zip(colours, series, strict=True)
    ]
    whole = '<figure data-curves="{}">{}<div class="plot">{}</div>{}{}</figure>'
    head = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup()
    shown = json.dumps({"title": title, "series": data, "chance": list(levels)})
    return Markup(whole).format(
        shown, head, picture, legend(curves, colours, levels), collapsed_table(sample_rows(series), title)
    )


def time_axes(run: Run) -> dict[str, Any]:
    """Steps per epoch, and seconds at some steps: the page's script converts steps to epochs and seconds with them."""
    steps, seconds = run.history.get("train/seconds", (np.zeros(0), np.zeros(0)))
    return {"epoch": run.epoch, "steps": round_values(steps, 0), "seconds": round_values(seconds, 5)}


def round_values(values: np.ndarray, digits: int) -> list[float | None]:
    """At most 1,000 of the values, for JSON.

    Args:
        values: ``[N]``.
        digits: significant digits; 0 for integers.

    Returns:
        The values, ``None`` for NaN and infinities.
    """
    kept = charts.thin(values, 1000).tolist()
    if not digits:
        return [round(value) for value in kept]
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in kept]


def legend(curves: Sequence[Curve], colours: Sequence[int], levels: dict[float, list[str]]) -> Markup:
    """Table with one row per curve: last value and, if higher or lower is better, best value and its step.

    Args:
        curves: in the chart.
        colours: number of each curve's colour.
        levels: see :func:`chance_lines`.
    """
    rows = [["", "last", "best", "at step"]]
    for number, (run, metric, name) in zip(colours, curves, strict=True):
        sample = line_sample(series_colour(number), series_dash(number))
        parts = Markup("<wbr>").join(re.split(r"(?<=[/_])", name))  # allowed line breaks in a long name
        rows.append([Markup("{} {}").format(sample, parts), charts.number(run.last(metric)), *best_value(run, metric)])
    for value, names in levels.items():
        label = "chance" if len(levels) == 1 else f"chance, {', '.join(names)}"
        rows.append([Markup("{} {}").format(line_sample("currentColor", "2 4"), label), charts.number(value), "", ""])
    columns = 4 if any(row[2] for row in rows[1:]) else 2
    return html_table([row[:columns] for row in rows], kind="legend")


def chance_lines(curves: Sequence[Curve]) -> dict[float, list[str]]:
    """Chance levels of a chart, each with the labels of the curves that it applies to."""
    found: dict[float, list[str]] = {}
    for run, metric, name in curves:
        if (value := chance_levels(run).get(metric)) is not None:
            found.setdefault(value, []).append(name)
    return found


def best_value(run: Run, metric: str) -> tuple[str, str]:
    """The best value and its step, as text; empty if neither higher nor lower is better."""
    steps, values = run.history[metric]
    highest = metric in HIGHEST or metric.startswith(OF_SETS)
    if not (highest or metric in LOWEST) or not np.isfinite(values).any():
        return "", ""
    at = int(np.nanargmax(values) if highest else np.nanargmin(values))
    return charts.number(float(values[at])), f"{steps[at]:.0f}"


def sample_rows(series: Sequence[charts.Series]) -> list[list[str]]:
    """Rows of a table of curves: evenly chosen steps, and each curve's last value at or before them."""
    steps = sorted({float(step) for _, x, _ in series for step in x})
    chosen = (
        steps
        if len(steps) <= TABLE_ROWS
        else [steps[round(i * (len(steps) - 1) / (TABLE_ROWS - 1))] for i in range(TABLE_ROWS)]
    )
    rows = [["step", *(name for name, _, _ in series)]]
    for step in chosen:
        before = [y[x <= step] for _, x, y in series]
        rows.append([f"{step:.0f}", *(charts.number(float(y[-1])) if len(y) else "–" for y in before)])
    return rows
