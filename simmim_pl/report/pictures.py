"""What a panel shows of one run that is no curve: HTML, empty when the run has nothing to show."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from simmim_pl.evaluation.table import cells
from simmim_pl.report import charts, figures
from simmim_pl.report.run import Run

MANY = 30  # classes, more than fit a table


def similarities(run: Run) -> Markup:
    """Histograms of positive and negative pairs, and their means."""
    figure = figures.similarities(run.observed)
    if figure is None:
        return Markup()
    positive, negative = run.observed["positive"], run.observed["negative"]
    centres = (np.arange(len(positive)) + 0.5) * 2 / len(positive) - 1
    means = [["pairs", "mean similarity"]]
    for name, counts in (("views of one image", positive), ("views of different images", negative)):
        means.append([name, charts.number(float((counts * centres).sum() / max(counts.sum(), 1)))])
    return chart(figure, f"{run.name}: similarity of views", means)


def spectrum(run: Run) -> Markup:
    """Singular values, and how many are above a part of the greatest."""
    figure = figures.spectrum(run.observed)
    if figure is None:
        return Markup()
    values = run.observed["singular"]
    counts = [["at least this part of the greatest", "directions"]]
    counts += [[f"{part:g}", str(int((values >= part * values[0]).sum()))] for part in (0.5, 0.1, 0.01, 0.001)]
    return chart(figure, f"{run.name}: singular values of the features", counts)


def scatter(run: Run) -> Markup:
    """The map; its numbers are where each class lies."""
    figure = figures.scatter(run.observed)
    if figure is None:
        return Markup()
    place, label, classes = (run.observed[name] for name in ("place", "label", "classes"))
    means = [["class", "images", "mean, first axis", "second axis"]]
    for number in np.unique(label[label >= 0]):
        of = place[label == number]
        means.append([str(classes[number]), str(len(of)), *(f"{value:.2f}" for value in of.mean(0))])
    return chart(figure, f"{run.name}: map of validation images", means)


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
    table = Markup('<div class="scroll" tabindex="0"><table class="images"><caption>{}</caption>{}</table></div>')
    return table.format(caption, Markup().join(rows))


def named(classes: np.ndarray, label: int) -> str:
    """The class of an image, for who does not see it."""
    return str(classes[label]) if 0 <= label < len(classes) else "image"


def results(run: Run) -> Markup:
    """Every card of the run's checkpoint, or of the run itself."""
    return Markup().join(table(cells(card), f"{run.name}: {card['command']}") for card in run.cards)


def confusion(run: Run) -> Markup:
    """A chart for each result of the encoder that is judged; its baselines' are in ``result.json``."""
    found = []
    for card in run.cards:
        for result in card["results"]:
            if result["encoder"] == card["results"][0]["encoder"] and result.get("confusion"):
                names, counts = list(result["per_class"]), np.array(result["confusion"], dtype=float)
                task = " ".join(filter(None, (result["data"], result["task"], result["variant"])))
                figure = charts.confusion(counts, names)
                found.append(chart(figure, f"{run.name}: confusion, {task}", confused(counts, names)))
    return Markup().join(found)


def confused(counts: np.ndarray, names: list[str]) -> list[list[str]]:
    """The matrix as a table; of more than thirty classes the twenty classes most often taken for another."""
    if len(names) <= MANY:
        rows = ([name, *map(charts.number, row)] for name, row in zip(names, counts, strict=True))
        return [["true class", *names], *rows]
    wrong = counts - np.diag(np.diag(counts))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:20]
    places = zip(*np.unravel_index(worst, wrong.shape), strict=True)
    return [
        ["true class", "taken for", "times"],
        *([names[i], names[j], charts.number(wrong[i, j])] for i, j in places),
    ]


def views(run: Run) -> Markup:
    """The first batch's views."""
    if run.views is None:
        return Markup()
    text = f"{run.name}: views of the first images, an image a row, a view a column"
    return Markup('<img class="views" alt="{}" src="{}">').format(text, address(run.views))


# By their names in panels.yaml.
PICTURES: dict[str, Callable[[Run], Markup]] = {
    **{"similarities": similarities, "spectrum": spectrum, "map": scatter, "neighbours": neighbours},
    **{"results": results, "confusion": confusion, "views": views},
}


def chart(figure: Figure, name: str, rows: list[list[str]]) -> Markup:
    """A figure with its numbers in a table below, which a screen reader reads in its place."""
    picture = Markup(charts.svg(figure, name))  # escaped there
    details = Markup("<details><summary>Numbers</summary>{}</details>").format(table(rows, name))
    return Markup("<figure>{}{}</figure>").format(picture, details)


def table(rows: list[list[str]], caption: str) -> Markup:
    """A table whose first row and column are heads."""
    head = Markup().join(Markup('<th scope="col">{}</th>').format(cell) for cell in rows[0])
    lines = []
    for first, *others in rows[1:]:
        row = Markup('<th scope="row">{}</th>').format(first)
        lines.append(row + Markup().join(Markup("<td>{}</td>").format(cell) for cell in others))
    body = Markup().join(Markup("<tr>{}</tr>").format(line) for line in lines)
    inner = Markup("<caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody>").format(caption, head, body)
    return Markup('<div class="scroll" tabindex="0"><table>{}</table></div>').format(inner)


def thumbnail(image: np.ndarray, name: str) -> Markup:
    """A small picture within the page."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "png")
    return Markup('<img class="thumbnail" alt="{}" src="{}">').format(name, address(file.getvalue()))


def address(picture: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
