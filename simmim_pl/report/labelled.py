"""The labelled sets beside the training set, one line each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from simmim_pl.report.run import Run
from simmim_pl.report.tables import html_table

HEAD = ("set", "kNN", "untrained", "linear probe", "untrained", "chance", "images")
SHARES = ("knn", "knn_untrained", "linear", "linear_untrained", "chance")


def labelled_names(run: Run) -> list[str]:
    """Names of the labelled sets that a run was evaluated on while it trained."""
    return [metric.removeprefix("val/knn/") for metric in sorted(run.history) if metric.startswith("val/knn/")]


def labelled(run: Run) -> Markup:
    """A table with one row per set: accuracies at the last validation in percent, and the number of held-out images."""
    rows: list[Sequence[str]] = [HEAD]
    for name in labelled_names(run):
        values = [run.last(f"val/{metric}/{name}") for metric in SHARES]
        cells = ["–" if math.isnan(value) else f"{100 * value:.1f} %" for value in values]
        rows.append([name, *cells, f"{run.last(f'val/images/{name}'):.0f}"])
    return html_table(rows, f"{run.name}: accuracy on labelled sets", "about") if len(rows) > 1 else Markup()
