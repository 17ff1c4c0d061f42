"""Charts as matplotlib figures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, ScalarFormatter

from simmim_pl.report import fonts

INK = "#1b1b1f"  # becomes the page's text colour
# Petroff 2021 (arXiv 2107.02270): ten colours told apart with impaired colour vision too.
COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MARKERS = "osD^vPX*<>"
POINTS = 300  # most points of a curve
SIZE = 10  # font size, in points
LONGEST = 32  # most letters of a name
STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor")},
    **{"svg.fonttype": "none", "font.size": SIZE, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.linewidth": 0.6, "font.family": "sans-serif", "axes.grid": True},
    **{"grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6, "figure.facecolor": "none"},
    **{"axes.facecolor": "none", "savefig.facecolor": "none", "figure.dpi": 100},
}
DOTS: dict[str, Any] = {"s": 9, "alpha": 0.75, "linewidths": 0}
PAIRS = ("one image", "different images")
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelcolor": INK}

Series = tuple[str, np.ndarray, np.ndarray]  # name, x, y


def canvas(width: float = 4.2, height: float = 2.4) -> tuple[Figure, Axes]:
    """An empty chart. No pyplot: its state would be shared with the user's own."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots()


def fit(figure: Figure, axes: Axes) -> None:
    """Set the left margin by the length of the tick labels: measuring them by drawing would double the time."""
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if axes.get_xlim()[1] >= 10_000 else ScalarFormatter())
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        said = "1" if high > 30 * low else "1234" if high > 3 * low else "123456789"  # first digits that are labelled
        plain = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in said else "")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(plain)
    marks = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
    em = SIZE / 72 / figure.get_figwidth()
    left = em * (0.68 * max(map(len, marks), default=0) + 1 + (1.5 if axes.get_ylabel() else 0))
    figure.subplots_adjust(left=left, right=0.95, bottom=0.2, top=0.91)


def curves(
    series: Sequence[Series],
    label: str = "",
    chance: Sequence[float] = (),
    legend: bool = True,
    colours: Sequence[int] = (),
) -> Figure:
    """Lines over optimizer steps; a long one is averaged over equal parts. A single point is a dot.

    - ``chance``: chance levels, drawn as dotted lines.
    - ``legend``: whether names are in the picture; the report's page has its own legend next to it.
    - ``colours``: number of each line's colour; by default 0, 1, 2, …
    """
    figure, axes = canvas()
    for number, (name, x, y) in zip(colours or range(len(series)), series, strict=False):
        x, y = thin(x), thin(y)
        axes.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            marker="o" if len(x) < 12 else "",
            markersize=3,
            linewidth=1.4,
            label=plain(name, f"curve {number + 1}"),
        )
    for value in chance:
        axes.axhline(value, color=INK, alpha=0.6, linewidth=1, linestyle=":")
    axes.set(xlabel="optimizer step", ylabel=label)
    fit(figure, axes)
    if legend and len(series) > 1:
        named(axes.legend(**LEGEND))
    return figure


def by_depth(lines: Sequence[np.ndarray], label: str) -> Figure:
    """A metric with its interval over the evaluated layer; each line is ``[4, L]``: layer, value, low, high."""
    figure, axes = canvas()
    for number, (layer, value, low, high) in enumerate(lines):
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        axes.fill_between(layer, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(layer, value, color=colour, linestyle=dashes, marker="o", markersize=3, linewidth=1.4)
    axes.set(xlabel="layer, from the image", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    fit(figure, axes)
    return figure


def intervals(names: Sequence[str], points: np.ndarray, label: str) -> Figure:
    """Values with their intervals, one name per row, the last on top; points are ``[N, 3]``: value, low, high."""
    figure, axes = canvas(7, 0.8 + 0.22 * len(names))
    figure.set_layout_engine("constrained")  # which finds the margin that long names need
    value, low, high = points.T
    places = np.arange(len(names))
    axes.hlines(places, low, high, color=COLOURS[0], linewidth=1.4)
    axes.scatter(value, places, color=COLOURS[0], s=14, zorder=3)
    axes.set(xlabel=label, yticks=places, ylim=(-0.7, len(names) - 0.3))
    axes.set_yticklabels([plain(name, f"run {number + 1}", 60) for number, name in enumerate(names)])
    return figure


def plain(name: str, otherwise: str, longest: int = LONGEST) -> str:
    """A name, shortened if too long, that matplotlib does not interpret: it hides a leading ``_``, and ``$`` is math.

    - ``otherwise``: used instead if no font has its characters, which matplotlib would draw as boxes.
    """
    if fonts.font_families(name) is None:
        return otherwise
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def named(legend: Legend) -> None:
    """Give every name the fonts that have its letters."""
    for text in legend.get_texts():
        text.set_fontfamily(fonts.font_families(text.get_text()) or [fonts.DEFAULT_FONT])


def thin(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """At most ``points`` values, each the mean of an equal part.

    >>> thin(np.arange(600.0))[:3]
    array([0.5, 2.5, 4.5])
    """
    if len(values) <= points:
        return values
    return np.array([part.mean() for part in np.array_split(values, points)])


def similarities(positive: np.ndarray, negative: np.ndarray, legend: bool = True) -> Figure:
    """Histograms of the cosine similarity of positive and negative pairs, as shares of pairs."""
    figure, axes = canvas()
    edges = np.linspace(-1, 1, len(positive) + 1)
    for number, (name, counts) in enumerate(zip(PAIRS, (positive, negative), strict=True)):
        share = counts / max(counts.sum(), 1)
        axes.stairs(share, edges, color=COLOURS[2 * number], linestyle=DASHES[number], linewidth=1.4, label=name)
        axes.stairs(share, edges, color=COLOURS[2 * number], fill=True, alpha=0.2)
    axes.set(
        xlabel="cosine similarity of two views", ylabel="share of pairs", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1)
    )
    fit(figure, axes)
    if legend:
        axes.legend(**LEGEND)
    return figure


def spectrum(singular: np.ndarray) -> Figure:
    """Singular values of the features, as shares of the greatest, on a logarithmic scale."""
    figure, axes = canvas()
    share = singular / max(float(singular[0]), 1e-30)
    axes.plot(np.arange(1, len(share) + 1), np.maximum(share, 1e-8), color=COLOURS[0], linewidth=1.4)
    axes.set(xlabel="direction", ylabel="singular value / greatest", yscale="log")
    fit(figure, axes)
    return figure


def scatter(
    place: np.ndarray, label: np.ndarray, classes: Sequence[str], explained: Sequence[float], legend: bool = True
) -> Figure:
    """The map of images, with a colour and a marker per class; with more than ten classes, the others are faint."""
    figure, axes = canvas(4.2 + legend, 3.6)
    figure.set_layout_engine("constrained")  # which finds the margin that long names need
    told = min(len(classes), len(COLOURS))
    others = place[(label < 0) | (label >= told)]
    if len(others):
        axes.scatter(others[:, 0], others[:, 1], color=INK, marker=".", **DOTS | {"alpha": 0.2})
    for number in range(told):
        x, y = place[label == number].T
        name = plain(classes[number], f"class {number}")
        axes.scatter(x, y, color=COLOURS[number], marker=MARKERS[number], label=name, **DOTS)
    first, second = (f"{100 * share:.0f} %" for share in explained)
    axes.set(xlabel=f"first axis ({first} of variance)", ylabel=f"second axis ({second})", xticks=[], yticks=[])
    if legend and told and label.max() >= 0:
        named(figure.legend(loc="outside right upper", markerscale=1.5, **LEGEND))
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG, black on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png", facecolor="white", dpi=150)
    return file.getvalue()


def number(value: float) -> str:
    """A value as text of about four digits, of whatever size.

    >>> [number(value) for value in (0.75314, 999.6, 1234.5, 3e-5, 14.0, math.nan)]
    ['0.753', '1000', '1234', '3e-05', '14', '–']
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 999.5 or value == round(value) else f"{value:.3g}"
