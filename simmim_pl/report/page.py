"""The report's HTML page: a verdict for each run, then the panels of ``panels.yaml``, with runs side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simmim_pl.report import charts, curves
from simmim_pl.report.about import run_differences, run_facts
from simmim_pl.report.comparison import side_by_side
from simmim_pl.report.labelled import labelled_names
from simmim_pl.report.pictures import PICTURES
from simmim_pl.report.run import Run, load_run
from simmim_pl.report.svg import line_sample, series_colour, series_dash
from simmim_pl.report.tables import html_table
from simmim_pl.runtime import atomic

# Logged only to compute, label or tabulate other curves.
UNSEEN = ["epoch", "train/progress", "train/seconds", "val/images", *(f"val/{name}/*" for name in ("images", "chance"))]
UNSEEN += [f"val/{name}_untrained/*" for name in ("knn", "linear")]


def write_report(folders: Sequence[Path], path: Path) -> None:
    """Write the report of one or several runs to one HTML file, atomically.

    Args:
        folders: run directories.
        path: the HTML file.

    Raises:
        InputError: a folder is no run directory, or cannot be read.
        OSError: the file cannot be written.
    """
    text = render_page([load_run(folder) for folder in folders])
    atomic.write(path, lambda file: file.write(text.encode()))


def render_page(runs: Sequence[Run]) -> str:
    """The page as HTML. Runs of the same name and id, in different folders, are called by their paths."""
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(run.folder)) for run in runs]
    pages = templates("simmim_pl.report")
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    sections = [(name, [panel for panel in panels if panel[2]]) for name, panels in filled_sections(runs)]
    return pages.get_template("page.html").render(
        title=" and ".join(run.name for run in runs),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        verdicts=[(run.name, run.verdict(), key_figures(run)) for run in runs if "train/loss" in run.history],
        runs=runs,
        sections=[(name, panels) for name, panels in sections if panels],
        colours=charts.COLOURS,
        apart=comparison_table(runs, run_differences(runs)) if len(runs) > 1 else None,
        compared=side_by_side(runs),
        about=comparison_table(runs, run_facts(runs)),
        clocks=json.dumps([curves.time_axes(run) for run in runs]),
        script=Markup(script),  # of this package
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def templates(*packages: str) -> Environment:
    """The templates in these packages; ``base.html`` of this one is the frame of every page."""
    places = ChoiceLoader([PackageLoader(package, "") for package in dict.fromkeys([*packages, "simmim_pl.report"])])
    return Environment(loader=places, autoescape=True, undefined=StrictUndefined)


def comparison_table(runs: Sequence[Run], rows: dict[str, list[str]]) -> Markup:
    """Table with one column per run, whose header shows the style of the run's curves."""
    if not rows:
        return Markup()
    samples = [line_sample(series_colour(number), series_dash(number)) for number in range(len(runs))]
    names = [Markup("{} {}").format(sample, run.name) for sample, run in zip(samples, runs, strict=True)]
    return html_table(
        [["", *(names if len(runs) > 1 else [runs[0].name])], *([name, *row] for name, row in rows.items())],
        kind="about",
    )


def filled_sections(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str, list[Markup], bool]]]]:
    """Sections of ``panels.yaml`` with their panels: title, how to read it, pictures, whether it has full width."""
    spec: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))

    def fill(panel: dict[str, Any]) -> tuple[str, str, list[Markup], bool]:
        return panel["title"], panel["read"], list(filter(None, panel_pictures(panel, runs))), panel.get("wide", False)

    found = [(section["section"], [fill(panel) for panel in section["panels"]]) for section in spec]
    shown = [name for section in spec for panel in section["panels"] for name in panel.get("metrics", ())] + UNSEEN
    known = {metric for run in runs for metric in run.history}
    others = sorted(known.difference(matching(runs, shown)))  # metrics of the user's own parts
    return [*found, ("Others", [(metric, "", curves.curve_panel(runs, [metric], metric), False) for metric in others])]


def matching(runs: Sequence[Run], patterns: Sequence[str]) -> list[str]:
    """Metrics that runs have logged, in the patterns' order; ``*`` stands for any name."""
    known = sorted({metric for run in runs for metric in run.history})
    return [metric for pattern in patterns for metric in known if fnmatchcase(metric, pattern)]


def panel_pictures(panel: dict[str, Any], runs: Sequence[Run]) -> list[Markup]:
    """The curves of a panel, or its picture of each run, with the run's name if there are several."""
    if "metrics" in panel:
        return curves.curve_panel(runs, matching(runs, panel["metrics"]), panel["title"])
    drawn = [(run, PICTURES[panel["picture"]](run)) for run in runs]
    if len(runs) == 1:
        return [picture for _, picture in drawn]
    return [Markup("<h4>{}</h4>{}").format(run.name, picture) for run, picture in drawn if picture]


def key_figures(run: Run) -> list[tuple[str, str]]:
    """The key figures of a run as pairs of name and text, each with its first value for comparison."""
    found = []
    named = [("kNN accuracy on validation", "val/knn"), ("Linear probe on validation", "val/probe")]
    for name, metric in named + [(f"kNN accuracy on {name}", f"val/knn/{name}") for name in labelled_names(run)]:
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
    elif "representation/rankme" in run.history:
        now, first = (charts.number(value("representation/rankme")) for value in (run.last, run.first))
        found.append(("Directions that features use (RankMe)", f"{now}, at first {first}"))
    if "train/loss" in run.history:
        found.append(("Loss", f"{run.last('train/loss'):.3f}, at first {run.first('train/loss'):.3f}"))
    return found
