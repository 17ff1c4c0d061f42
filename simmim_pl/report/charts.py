"""Charts: matplotlib figures, as PNG for W&B or as SVG whose colours follow the page's, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1b1b1f"  # becomes the page's text colour
# Petroff 2021 (arXiv 2107.02270): ten colours told apart with impaired colour vision too.
COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MARKERS = "osD^vPX*<>"
POINTS = 300  # of a curve, at most
STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor")},
    **{"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.linewidth": 0.6, "font.family": "sans-serif", "axes.grid": True},
    **{"grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6, "figure.facecolor": "none"},
    **{"axes.facecolor": "none", "savefig.facecolor": "none", "figure.dpi": 100},
}
DOTS: dict[str, Any] = {"s": 9, "alpha": 0.75, "linewidths": 0}
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelcolor": INK}

Series = tuple[str, np.ndarray, np.ndarray]  # name, x, y


def canvas(
    width: float = 5.0, height: float = 2.6, layout: Literal["constrained"] | None = None
) -> tuple[Figure, Axes]:
    """An empty chart. No pyplot: its state would be shared with the user's own.

    - ``layout``: "constrained" finds the margins that long labels need, and draws everything twice for it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=layout)
        if layout is None:
            figure.subplots_adjust(left=0.13, right=0.96, bottom=0.18, top=0.96)
        return figure, figure.subplots()


def curves(series: Sequence[Series], label: str = "") -> Figure:
    """Lines over optimizer steps; of a long one, means of equal parts. A single point is a dot."""
    figure, axes = canvas()
    for number, (name, x, y) in enumerate(series):
        x, y = thin(x), thin(y)
        axes.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            marker="o" if len(x) < 12 else "",
            markersize=3,
            linewidth=1.4,
            label=plain(name),
        )
    axes.set(xlabel="optimizer step", ylabel=label)
    if len(series) > 1:
        axes.legend(**LEGEND)
    return figure


def plain(name: str) -> str:
    """A name as it is: matplotlib would read formulas between dollars, and hide what begins with a line."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def thin(values: np.ndarray) -> np.ndarray:
    """At most 300 values, each the mean of its part.

    >>> thin(np.arange(600.0))[:3]
    array([0.5, 2.5, 4.5])
    """
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])


def similarities(positive: np.ndarray, negative: np.ndarray) -> Figure:
    """How similar projections are, of two views of an image and of different images: shares of pairs, by bin."""
    figure, axes = canvas()
    edges = np.linspace(-1, 1, len(positive) + 1)
    for number, (name, counts) in enumerate((("one image", positive), ("different images", negative))):
        share = counts / max(counts.sum(), 1)
        axes.stairs(share, edges, color=COLOURS[2 * number], linestyle=DASHES[number], linewidth=1.4, label=name)
        axes.stairs(share, edges, color=COLOURS[2 * number], fill=True, alpha=0.2)
    axes.set(xlabel="cosine similarity of two views", ylabel="share of pairs", xlim=(-1, 1))
    axes.legend(**LEGEND)
    return figure


def spectrum(singular: np.ndarray) -> Figure:
    """Singular values of the features, as shares of the greatest, on a logarithmic scale."""
    figure, axes = canvas()
    share = singular / max(float(singular[0]), 1e-30)
    axes.plot(np.arange(1, len(share) + 1), np.maximum(share, 1e-8), color=COLOURS[0], linewidth=1.4)
    axes.set(xlabel="direction", ylabel="singular value / greatest", yscale="log")
    return figure


def scatter(place: np.ndarray, label: np.ndarray, classes: Sequence[str], explained: Sequence[float]) -> Figure:
    """The map of images, a colour and a mark a class; of more than ten classes, the first ten are told apart."""
    figure, axes = canvas(5.0, 3.6, layout="constrained")
    named = min(len(classes), len(COLOURS))
    others = place[(label < 0) | (label >= named)]
    if len(others):
        axes.scatter(others[:, 0], others[:, 1], color=COLOURS[8], marker=".", **DOTS)
    for number in range(named):
        x, y = place[label == number].T
        axes.scatter(x, y, color=COLOURS[number], marker=MARKERS[number], label=plain(classes[number]), **DOTS)
    first, second = (f"{100 * share:.0f} %" for share in explained)
    axes.set(xlabel=f"first axis ({first} of variance)", ylabel=f"second axis ({second})", xticks=[], yticks=[])
    if named and label.max() >= 0:
        figure.legend(loc="outside right upper", markerscale=1.5, **LEGEND)
    return figure


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Shares of each true class, a row, that were taken for each class."""
    side = min(2.2 + 0.26 * len(names), 9)
    figure, axes = canvas(side + 0.8, side, layout="constrained")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap=one_colour(), vmin=0, vmax=1)
    axes.grid(False)
    places = range(len(names)) if len(names) <= 30 else []
    axes.set(xlabel="taken for", ylabel="true class", xticks=places, yticks=places)
    if places:
        axes.set_xticklabels(map(plain, names), rotation=90)
        axes.set_yticklabels(map(plain, names))
    if len(names) <= 12:
        for row, column in np.argwhere(share >= 0.005):
            value = f"{100 * share[row, column]:.0f}"
            axes.text(column, row, value, ha="center", va="center", fontsize=7, color=INK)
    return figure


def one_colour() -> matplotlib.colors.Colormap:
    """From nothing to the first colour, half transparent, so that numbers are read on it, light or dark."""
    red, green, blue = matplotlib.colors.to_rgb(COLOURS[0])
    return matplotlib.colors.LinearSegmentedColormap.from_list(
        "share", [(red, green, blue, 0), (red, green, blue, 0.7)]
    )


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG for inside a page: its colours are the page's variables, what it says is ``name``.

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
    return f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width:g} {height:g}" {kept}>{body}'


def escape(text: str) -> str:
    """For inside an attribute."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def png(figure: Figure) -> bytes:
    """The figure as a PNG, black on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png", facecolor="white", dpi=120)
    return file.getvalue()


def number(value: float) -> str:
    """A value as text of about four digits, of whatever size.

    >>> [number(value) for value in (0.75314, 1234.5, 3e-5, 14.0, math.nan)]
    ['0.753', '1234', '3e-05', '14', '–']
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.3g}"
