"""What evaluations found of several runs, side by side: a table, and a chart for each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from simmim_pl.evaluation.table import named, shown
from simmim_pl.report import charts
from simmim_pl.report.pictures import chart
from simmim_pl.report.run import Run
from simmim_pl.report.tables import html_table

Scores = dict[str, dict[str, Any]]  # by task, an estimate as result cards have it


def scores(run: Run) -> Scores:
    """Results of a run's evaluated encoder by task; if several cards have a task, that of the last card.

    A task is a protocol, its variant and its metric on a data set, such as ``FewLabels, 1 % of labels on CIFAR10``, and
    the layer that was read instead of the encoder's output.
    """
    found: Scores = {}
    for card in run.cards:
        for result in card["results"]:
            if result["encoder"] == card["results"][0]["encoder"]:
                layer = card.get("encoders", {}).get(result["encoder"], {}).get("layer")
                for metric, estimate in result["metrics"].items():
                    more = ["" if metric == "accuracy" else f", {metric}", f" of layer {layer}" if layer else ""]
                    found[f"{named(result)}{''.join(more)} on {result['data']}"] = estimate
    return found


def tasks(found: Iterable[Scores]) -> list[str]:
    """All tasks by which some of the runs were evaluated, in the cards' order."""
    return list(dict.fromkeys(task for each in found for task in each))


def side_by_side(runs: Sequence[Run]) -> Markup:
    """If at least two runs were evaluated: a table of their results, and a chart for each task that they share."""
    found = {run.name: each for run in runs if (each := scores(run))}
    if len(found) < 2:
        return Markup()
    rows = [["", *tasks(found.values())]]
    rows += [
        [name, *(shown(each[task]) if task in each else "–" for task in rows[0][1:])] for name, each in found.items()
    ]
    told = html_table(rows, "Percent on test, with 95 % intervals", "about")
    by_task = {task: {name: each[task] for name, each in found.items() if task in each} for task in rows[0][1:]}
    drawn = (task_chart(task, each) for task, each in by_task.items() if len(each) > 1)
    return told + Markup('<div class="flow">{}</div>').format(Markup().join(drawn))


def task_chart(task: str, found: Mapping[str, Any]) -> Markup:
    """A chart of one task, the best run on top."""
    best = sorted(found, key=lambda name: found[name]["value"])
    points = np.array([[found[name]["value"], *found[name]["interval"]] for name in best])
    rows = [["run", task], *([name, shown(found[name])] for name in reversed(best))]
    return chart(charts.intervals(best, 100 * points, f"{task}, %"), task, rows)
