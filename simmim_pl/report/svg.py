"""Figures as SVG for inside a page, whose colours and letters are the page's, light or dark."""

from __future__ import annotations

import io
import re

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from simmim_pl.report.charts import COLOURS, INK, MARKERS, STYLE

DASHES = ("none", "7 3", "2 2", "7 3 2 3")  # as those of the charts


def svg(figure: Figure, name: str) -> Markup:
    """The figure, whose colours are the page's variables, and what it says ``name``.

    - ``name``: read out in place of the picture, and what makes its inner names differ from another chart's.
    """
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # names that every chart has, and nothing refers to
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{number})")
    width, height = (72 * size for size in figure.get_size_inches())
    head, body = text.removeprefix("<svg ").split(">", 1)
    kept = re.sub(r' ?(width|height|viewBox|version)="[^"]*"', "", head)
    start = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" ').format(name, width, height)
    return start + Markup(f"{kept}>{body}")


def line(colour: str, dashes: str) -> Markup:
    """A sample of a curve's line, for a legend."""
    path = '<path d="M0 4H24" stroke="{}" stroke-dasharray="{}" stroke-width="2"/>'
    return sample(24, Markup(path).format(colour, dashes))


def mark(number: int) -> Markup:
    """A sample of a class's mark on the map, for a legend."""
    style = MarkerStyle(MARKERS[number])
    (outline,) = style.get_path().transformed(style.get_transform()).to_polygons()
    points = " ".join(f"{4 + 5.5 * x:.2f},{4 - 5.5 * y:.2f}" for x, y in np.asarray(outline))
    return sample(8, Markup('<polygon points="{}" fill="{}"/>').format(points, colour(number)))


def sample(width: int, shape: Markup) -> Markup:
    """A drawing as high as a letter."""
    picture = '<svg aria-hidden="true" style="width: {}em; height: .6em" viewBox="0 0 {} 8">{}</svg>'
    return Markup(picture).format(width * 0.06, width, shape)


def colour(number: int) -> str:
    """The page's colour of a series."""
    return f"var(--series-{number % len(COLOURS)})"


def dash(number: int) -> str:
    """Its dashes, as in the chart."""
    return DASHES[number % len(DASHES)]
