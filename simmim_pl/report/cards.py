"""Result cards of evaluations, and confusion matrices."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_rgb
from PIL import Image

from simmim_pl.evaluation.table import cells, named
from simmim_pl.report.charts import COLOURS, number
from simmim_pl.report.run import Run
from simmim_pl.report.tables import collapsed_table, html_table, scrollable_table

MANY = 30  # with more classes, a confusion matrix is drawn as pixels instead of a table


def results(run: Run) -> Markup:
    """Every card of the run's checkpoint, or of the run itself."""
    return Markup().join(html_table(cells(card), f"{run.name}: {card['command']}", "card") for card in run.cards)


def confusion(run: Run) -> Markup:
    """A confusion matrix for each result of the evaluated encoder; those of its baselines are in ``result.json``."""
    found = []
    for card in run.cards:
        for result in card["results"]:
            if result["encoder"] == card["results"][0]["encoder"] and result.get("confusion"):
                found.append(matrix(result, run.name))
    return Markup('<div class="flow">{}</div>').format(Markup().join(found)) if found else Markup()


def matrix(result: dict[str, Any], run: str) -> Markup:
    """A confusion matrix, normalised by true class (rows): as a table with names, or as pixels for many classes."""
    names, counts = list(result["per_class"]), np.array(result["confusion"], dtype=float)
    title = f"{named(result)} on {result['data']}, encoder: {result['encoder']}"
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(names) <= MANY
    shown = labelled(share, names, title) if few else pixels(share, title)
    head = Markup("<figcaption>{}</figcaption>").format(title)
    said = "Numbers" if few else "Most often mistaken"
    rows = confused(counts, names)
    numbers = collapsed_table(rows, f"{run}: confusion, {title}", said) if len(rows) > 1 else Markup()
    return Markup('<figure class="confusion">{}{}{}</figure>').format(head, shown, numbers)


def labelled(share: np.ndarray, names: list[str], title: str) -> Markup:
    """A table of shares in percent, whose cells are darker for greater shares."""
    head = Markup().join(Markup('<th scope="col"><span>{}</span></th>').format(name) for name in names)
    rows = [Markup('<tr><th scope="row">true class ↓ taken for →</th>{}</tr>').format(head)]
    for name, row in zip(names, share.tolist(), strict=True):
        line = Markup('<tr><th scope="row">{}</th>').format(name)
        for value in row:
            line += Markup('<td style="--share: {:.3f}">{}</td>').format(
                value, f"{100 * value:.0f}" if value >= 0.005 else ""
            )
        rows.append(line + Markup("</tr>"))
    return scrollable_table(Markup().join(rows), f"Percent of each true class: {title}", "matrix")


def pixels(share: np.ndarray, title: str) -> Markup:
    """A picture with a pixel for each pair of classes."""
    colour = np.broadcast_to(np.multiply(to_rgb(COLOURS[0]), 255), (*share.shape, 3))
    image = np.concatenate([colour, 255 * share[..., None]], axis=2).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image, "RGBA").save(file, "png")
    return Markup('<img class="matrix" alt="confusion: {}, one true class per row" src="{}">').format(
        title, address(file.getvalue())
    )


def confused(counts: np.ndarray, names: list[str]) -> list[list[str]]:
    """The matrix as rows of a table; for more than thirty classes, the twenty most frequent confusions."""
    if len(names) <= MANY:
        rows = ([name, *map(number, row)] for name, row in zip(names, counts, strict=True))
        return [["true class", *names], *rows]
    wrong = counts - np.diag(np.diag(counts))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:20]
    places = zip(*np.unravel_index(worst[wrong.flat[worst] > 0], wrong.shape), strict=True)
    return [
        ["true class", "taken for", "times"],
        *([names[i], names[j], number(wrong[i, j])] for i, j in places),
    ]


def address(picture: bytes) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
