"""The charts of what was observed at the last validation, by name."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from simmim_pl.report import charts
from simmim_pl.report.observed import Observed


def figures(found: Observed) -> dict[str, Figure]:
    """``similarities``, ``spectrum`` and ``map``, as far as they were observed and are finite."""
    drawn = {}
    if "positive" in found:
        drawn["similarities"] = charts.similarities(found["positive"], found["negative"])
    if "singular" in found and np.isfinite(found["singular"]).all():
        drawn["spectrum"] = charts.spectrum(found["singular"])
    if "place" in found:
        classes = [str(name) for name in found["classes"]]
        drawn["map"] = charts.scatter(found["place"], found["label"], classes, found["explained"].tolist())
    return drawn
