"""The charts of what was observed at the last validation, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from simmim_pl.report import charts
from simmim_pl.report.observed import Observed


def similarities(found: Observed, legend: bool = True) -> Figure | None:
    """Histograms of pairs, if they were observed."""
    return charts.similarities(found["positive"], found["negative"], legend) if "positive" in found else None


def spectrum(found: Observed) -> Figure | None:
    """Singular values, if they were observed and are finite."""
    return charts.spectrum(found["singular"]) if np.isfinite(found.get("singular", np.nan)).all() else None


def scatter(found: Observed, legend: bool = True) -> Figure | None:
    """The map, if it was observed."""
    if "place" not in found:
        return None
    classes = [str(name) for name in found["classes"]]
    return charts.scatter(found["place"], found["label"], classes, found["explained"].tolist(), legend)


FIGURES: dict[str, Callable[[Observed], Figure | None]] = {
    "similarities": similarities,
    "spectrum": spectrum,
    "map": scatter,
}


def figures(found: Observed) -> dict[str, Figure]:
    """All that were observed."""
    drawn = {name: draw(found) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}
