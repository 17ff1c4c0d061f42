"""Convert matplotlib figures to inline SVG that uses the page's colours and fonts, light or dark."""

from __future__ import annotations

import io
import re

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from simmim_pl.report.charts import COLOURS, INK, MARKERS, STYLE

DASHES = ("none", "7 3", "2 2", "7 3 2 3")  # stroke-dasharray values that match the charts' line styles


def to_svg(figure: Figure, name: str) -> Markup:
    """Convert a figure to inline SVG, with the page's CSS variables for colours.

    Args:
        figure: to be converted.
        name: label for screen readers; also makes the ids inside the SVG unique on the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids that all charts share and nothing refers to
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{number})")
    width, height = (72 * size for size in figure.get_size_inches())
    head, body = text.removeprefix("<svg ").split(">", 1)
    kept = re.sub(r' ?(width|height|viewBox|version)="[^"]*"', "", head)
    start = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" ').format(name, width, height)
    return start + Markup(f"{kept}>{body}")


def line_sample(colour: str, dashes: str) -> Markup:
    """A short line in a curve's style, for a legend."""
    path = '<path d="M0 4H24" stroke="{}" stroke-dasharray="{}" stroke-width="2"/>'
    return inline_drawing(24, Markup(path).format(colour, dashes))


def marker_sample(number: int) -> Markup:
    """The marker of a class on the map, for a legend."""
    style = MarkerStyle(MARKERS[number])
    (outline,) = style.get_path().transformed(style.get_transform()).to_polygons()
    points = " ".join(f"{4 + 5.5 * x:.2f},{4 - 5.5 * y:.2f}" for x, y in np.asarray(outline))
    return inline_drawing(8, Markup('<polygon points="{}" fill="{}"/>').format(points, series_colour(number)))


def inline_drawing(width: int, shape: Markup) -> Markup:
    """An inline SVG as high as a letter; ``width`` is in units of an eighth of its height."""
    picture = '<svg aria-hidden="true" style="width: {}em; height: .6em" viewBox="0 0 {} 8">{}</svg>'
    return Markup(picture).format(width * 0.06, width, shape)


def series_colour(number: int) -> str:
    """CSS colour of a series."""
    return f"var(--series-{number % len(COLOURS)})"


def series_dash(number: int) -> str:
    """Dashes of a series, as in the chart."""
    return DASHES[number % len(DASHES)]
