"""The page: what is wrong, if anything, then every panel of ``panels.yaml``, runs side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simmim_pl.report import charts, curves
from simmim_pl.report.about import about, apart
from simmim_pl.report.pictures import PICTURES
from simmim_pl.report.run import Run, read
from simmim_pl.report.svg import colour, dash, line
from simmim_pl.report.tables import table
from simmim_pl.runtime import atomic


def write(folders: Sequence[Path], path: Path) -> None:
    """Write the report of one run or several to a file of its own, whole or not at all.

    Raises:
        InputError: a folder is no run directory, or cannot be read.
        OSError: the file cannot be written.
    """
    text = page([read(folder) for folder in folders])
    atomic.write(path, lambda file: file.write(text.encode()))


def page(runs: Sequence[Run]) -> str:
    """The whole page as HTML. Runs of one name and id, in folders of their own, go by their paths."""
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(run.folder)) for run in runs]
    pages = Environment(loader=PackageLoader("simmim_pl.report", ""), autoescape=True, undefined=StrictUndefined)
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    sections = [(name, [panel for panel in panels if panel[2]]) for name, panels in filled(runs)]
    return pages.get_template("page.html").render(
        title=" and ".join(run.name for run in runs),
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        verdicts=[(run.name, run.verdict(), learned(run)) for run in runs if "train/loss" in run.history],
        runs=runs,
        sections=[(name, panels) for name, panels in sections if panels],
        colours=charts.COLOURS,
        apart=beside(runs, apart(runs)) if len(runs) > 1 else None,
        about=beside(runs, about(runs)),
        clocks=json.dumps([curves.clock(run) for run in runs]),
        script=Markup(script),  # ours
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def beside(runs: Sequence[Run], rows: dict[str, list[str]]) -> Markup:
    """A table of what is known, a run a column, whose head shows how its curves look."""
    if not rows:
        return Markup()
    samples = [line(colour(number), dash(number)) for number in range(len(runs))]
    names = [Markup("{} {}").format(sample, run.name) for sample, run in zip(samples, runs, strict=True)]
    return table(
        [["", *(names if len(runs) > 1 else [runs[0].name])], *([name, *row] for name, row in rows.items())],
        kind="about",
    )


def filled(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str, list[Markup], bool]]]]:
    """Sections of panels of ``panels.yaml``: title, how to read it, its pictures, whether it takes a whole line."""
    spec: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))

    def fill(panel: dict[str, Any]) -> tuple[str, str, list[Markup], bool]:
        return panel["title"], panel["read"], list(filter(None, pictures(panel, runs))), panel.get("wide", False)

    return [(section["section"], [fill(panel) for panel in section["panels"]]) for section in spec]


def pictures(panel: dict[str, Any], runs: Sequence[Run]) -> list[Markup]:
    """Curves, or a picture of each run, which names it where there are several."""
    if "metrics" in panel:
        return curves.panel(runs, panel["metrics"], panel["title"])
    drawn = [(run, PICTURES[panel["picture"]](run)) for run in runs]
    if len(runs) == 1:
        return [picture for _, picture in drawn]
    return [Markup("<h4>{}</h4>{}").format(run.name, picture) for run, picture in drawn if picture]


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
