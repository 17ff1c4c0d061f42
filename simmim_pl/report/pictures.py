"""Panels of one run other than curves, as HTML; empty if the run has nothing to show."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from simmim_pl.evaluation.table import shown as text_of
from simmim_pl.report import charts, figures
from simmim_pl.report.cards import address, confusion, results
from simmim_pl.report.labelled import labelled
from simmim_pl.report.observed import PICTURE
from simmim_pl.report.run import Run
from simmim_pl.report.svg import line_sample, marker_sample, series_colour, series_dash, to_svg
from simmim_pl.report.tables import collapsed_table, scrollable_table


def similarities(run: Run) -> Markup:
    """Histograms of positive and negative pairs, and their means."""
    figure = figures.similarities(run.observed, legend=False)
    if figure is None:
        return Markup()
    positive, negative = run.observed["positive"], run.observed["negative"]
    centres = (np.arange(len(positive)) + 0.5) * 2 / len(positive) - 1
    means = [["pairs", "mean similarity"]]
    for name, counts in (("views of one image", positive), ("views of different images", negative)):
        means.append([name, charts.number(float((counts * centres).sum() / max(counts.sum(), 1)))])
    samples = [line_sample(series_colour(2 * number), series_dash(number)) for number in range(2)]
    legend = [Markup("{} {}").format(*pair) for pair in zip(samples, charts.PAIRS, strict=True)]
    return chart(figure, f"{run.name}: similarity of views", means, legend)


def spectrum(run: Run) -> Markup:
    """Singular values, and how many are above given fractions of the greatest."""
    figure = figures.spectrum(run.observed)
    if figure is None:
        return Markup()
    values = run.observed["singular"]
    counts = [["at least this part of the greatest", "directions"]]
    counts += [[f"{part:g}", str(int((values >= part * values[0]).sum()))] for part in (0.5, 0.1, 0.01, 0.001)]
    return chart(figure, f"{run.name}: singular values of the features", counts)


def scatter(run: Run) -> Markup:
    """The map, with a table of the mean position of each class."""
    figure = figures.scatter(run.observed, legend=False)
    if figure is None:
        return Markup()
    place, label, classes = (run.observed[name] for name in ("place", "label", "classes"))
    means = [["class", "images", "mean, first axis", "second axis"]]
    for number in np.unique(label[label >= 0]):
        of = place[label == number]
        means.append([str(classes[number]), str(len(of)), *(f"{value:.2f}" for value in of.mean(0))])
    told = map(str, classes[: len(charts.COLOURS)]) if label.max() >= 0 else ()
    legend = [Markup("{} {}").format(marker_sample(number), name) for number, name in enumerate(told)]
    return chart(figure, f"{run.name}: map of validation images", means, legend)


def depth(run: Run) -> Markup:
    """A chart for each card, data set and metric of results that are of layers."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, card in enumerate(run.cards, start=1):
        for result in card["results"]:
            for metric, estimate in result["metrics"].items() if "depth" in result else ():
                title = f"{run.name}: {metric} of {result['task']} on {result['data']}, card {number}"
                found.setdefault((metric, title), []).append(result | estimate)
    return Markup().join(by_depth(metric, title, results) for (metric, title), results in found.items())


def by_depth(metric: str, title: str, results: Sequence[dict[str, Any]]) -> Markup:
    """A metric against depth, an encoder a line; its table names the layers."""
    lines: dict[str, list[tuple[float, ...]]] = {}
    cells: dict[str, dict[str, str]] = {}
    for each in results:
        numbers = (100 * each["value"], *(100 * end for end in each["interval"]))
        lines.setdefault(each["encoder"], []).append((each["depth"], *numbers))
        cells.setdefault(f"{each['depth']}: {each['variant']}", {})[each["encoder"]] = text_of(each)
    rows = [
        ["layer", *lines],
        *([name, *(cell.get(encoder, "–") for encoder in lines)] for name, cell in cells.items()),
    ]
    samples = [line_sample(series_colour(number), series_dash(number)) for number in range(len(lines))]
    legend = [Markup("{} {}").format(*pair) for pair in zip(samples, lines, strict=True)]
    figure = charts.by_depth([np.array(points).T for points in lines.values()], f"{metric}, %")
    return chart(figure, title, rows, legend)


def neighbours(run: Run) -> Markup:
    """A table: a query a row, then its neighbours, each with its class and similarity."""
    if "shown" not in run.observed:
        return Markup()
    names = ["shown", "shown_label", "similarity", "classes"]
    shown, label, similarity, classes = (run.observed[name] for name in names)
    rows = []
    for images, labels, values in zip(shown, label.tolist(), similarity.tolist(), strict=True):
        row = [Markup('<th scope="row">{}</th>').format(thumbnail(images[0], named(classes, labels[0])))]
        for image, other, value in zip(images[1:], labels[1:], values, strict=True):
            same = "" if other < 0 else " ✓" if other == labels[0] else " ✗"
            cell = Markup("<td>{}<small>{:.2f}{}</small></td>")
            row.append(cell.format(thumbnail(image, named(classes, other)), value, same))
        rows.append(Markup("<tr>{}</tr>").format(Markup().join(row)))
    caption = f"{run.name}: nearest neighbours, most similar first, with cosine similarity"
    return scrollable_table(Markup().join(rows), caption, "images")


def named(classes: np.ndarray, label: int) -> str:
    """The class of an image, for its alternative text."""
    return str(classes[label]) if 0 <= label < len(classes) else "image"


def views(run: Run) -> Markup:
    """The first batch's views."""
    if run.views is None:
        return Markup()
    text = f"{run.name}: views of the first images, one image per row, one view per column"
    return Markup('<img class="views" alt="{}" src="{}">').format(text, address(run.views))


def pictures(run: Run) -> Markup:
    """Pictures of the method and of the user's callbacks."""
    shown = Markup('<figure><img class="views" alt="{0}: {1}" src="{2}"><figcaption>{1}</figcaption></figure>')
    kept = {name.removeprefix(PICTURE): rows for name, rows in run.observed.items() if name.startswith(PICTURE)}
    return Markup().join(shown.format(run.name, name, address(png(rows))) for name, rows in kept.items())


def chart(figure: Figure, name: str, rows: list[list[str]], legend: Sequence[Markup] = ()) -> Markup:
    """A figure, its legend as HTML, and a table of its numbers."""
    items = Markup().join(Markup("<li>{}</li>").format(item) for item in legend)
    told = Markup('<ul class="legend">{}</ul>').format(items) if legend else Markup()
    return Markup("<figure>{}{}{}</figure>").format(to_svg(figure, name), told, collapsed_table(rows, name))


def thumbnail(image: np.ndarray, name: str) -> Markup:
    """A small picture within the page."""
    return Markup('<img class="thumbnail" alt="{}" src="{}">').format(name, address(png(image.transpose(1, 2, 0))))


def png(image: np.ndarray) -> bytes:
    """An image ``[h, w, 3]`` of bytes as a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


# By their names in panels.yaml.
PICTURES: dict[str, Callable[[Run], Markup]] = {
    **{"similarities": similarities, "spectrum": spectrum, "map": scatter, "neighbours": neighbours},
    **{"labelled": labelled, "results": results, "depth": depth, "confusion": confusion},
    **{"views": views, "pictures": pictures},
}
