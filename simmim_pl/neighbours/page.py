"""The page: neighbours of queries, near-duplicates and outliers, with small pictures of the images."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from simmim_pl.neighbours.pictures import Pictures, picture_of_file
from simmim_pl.neighbours.search import Group, Near, Pairs, groups, outliers
from simmim_pl.neighbours.table import Table
from simmim_pl.report import charts
from simmim_pl.report.page import templates
from simmim_pl.report.pictures import chart
from simmim_pl.report.tables import scrollable_table

SHOWN = 12  # most images of a line, besides the first
GROUPS = 30  # most groups of a section
OUTLIERS, FEW = 20, 5  # outliers, and neighbours of each
LEVELS = (0.999, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)
Line = tuple[Markup, list[Markup]]  # its head, and its images


class Section(NamedTuple):
    """A part of the page."""

    key: str  # the anchor
    name: str
    read: str  # how to read it
    content: Markup


class Page:
    """Draws a table's images.

    Args:
        table: of the embeddings.
        pictures: of its images.
    """

    def __init__(self, table: Table, pictures: Pictures) -> None:
        self.table, self.pictures = table, pictures

    def render(self, sections: Sequence[Section]) -> str:
        """The whole page as HTML."""
        counts = Counter(self.table.known["split"].to_pylist())
        template = templates("simmim_pl.neighbours").get_template("neighbours.html")
        return template.render(
            title=f"Neighbours in {self.table.path.name}",
            written=time.strftime("%Y-%m-%d %H:%M:%S"),
            path=self.table.path,
            counts=", ".join(f"{number} images of {name}" for name, number in counts.items()),
            width=self.table.features.shape[1],
            missing=self.pictures.missing,
            sections=sections,
            colours=charts.COLOURS,
        )

    def image(self, row: int, said: str = "") -> Markup:
        """An image of the table with its name, split and label."""
        picture, name = self.pictures(row), self.table.name(row)
        split = "" if self.table.value("path", row) is None else self.table.value("split", row)
        return cell(picture, name, [said, short(name), split, self.pictures.label(row)])

    def neighbours(self, similarity: Tensor, rows: Tensor, label: int | None = None) -> list[Markup]:
        """The images of neighbours, with their similarity, and whether they have this label."""
        found = []
        for row, value in zip(rows[:SHOWN].tolist(), similarity[:SHOWN].tolist(), strict=True):
            other = self.table.value("label", row)
            same = "" if label is None or other is None else " ✓" if label == other else " ✗"
            found.append(self.image(row, f"{min(value, 1):.3f}{same}"))
        return found

    def queries(self, queries: Sequence[int | str], near: Sequence[tuple[Tensor, Tensor]]) -> Section:
        """A line for each query, a row of the table or a file, with similarity and row of its neighbours."""
        lines: list[Line] = []
        for query, found in zip(queries, near, strict=True):
            if isinstance(query, int):
                lines.append((self.image(query), self.neighbours(*found, self.table.value("label", query))))
            else:
                own = cell(picture_of_file(query), query, [short(query), "not in the table"])
                lines.append((own, self.neighbours(*found)))
        read = "A line begins with a query. Its neighbours follow, the most similar first, with their similarity"
        read += "; ✓ and ✗ say whether they have its label." if "label" in self.table.known.column_names else "."
        return Section("queries", "Nearest neighbours", read, table_of(lines, "Queries and their neighbours"))

    def duplicates(self, pairs: Pairs, threshold: float | None) -> list[Section]:
        """Groups of near-duplicates: first those of several splits, then those within one."""
        parts: dict[bool, list[Group]] = {True: [], False: []}
        for group in groups(pairs):
            parts[len({self.table.value("split", row) for row in group.rows}) > 1].append(group)
        number = len(pairs.similarity)
        limit = f"the {number} most similar pairs" if threshold is None else f"{number} pairs of {threshold:g} or more"
        read = f"A line is a group of images that pairs connect, of {limit}. They need not be duplicates: look at them."
        leak = " Images of test that are in train, too, inflate test results; of validation, the choice of a model."
        return [
            self.grouped("across", "Near-duplicates across splits", read + leak, parts[True]),
            self.grouped("within", "Near-duplicates within a split", read, parts[False]),
        ]

    def grouped(self, key: str, name: str, read: str, found: Sequence[Group]) -> Section:
        """A section with a line for each group."""
        if not found:
            return Section(key, name, read, Markup("<p>None.</p>"))
        lines: list[Line] = []
        for rows, lowest, highest in found[:GROUPS]:
            splits = Counter(self.table.value("split", row) for row in rows)
            said = [f"{lowest:.3f} to {highest:.3f}" if lowest < highest else f"{highest:.3f}"]
            said += [f"{number} of {split}" for split, number in splits.items()]
            said += [f"{SHOWN} are shown"] if len(rows) > SHOWN else []
            lines.append((Markup("<br>").join(said), [self.image(row) for row in rows[:SHOWN]]))
        more = f" {GROUPS} of {len(found)} groups are shown." if len(found) > GROUPS else ""
        return Section(key, name, read + more, table_of(lines, name))

    def outliers(self, near: Near) -> Section:
        """The images that are least similar to their neighbours."""
        lines: list[Line] = []
        for mean, row in zip(*map(Tensor.tolist, outliers(near, OUTLIERS)), strict=True):
            others = self.neighbours(near.similarity[row, :FEW], near.row[row, :FEW])
            lines.append((self.image(row, f"mean {mean:.3f}"), others))
        read = f"The images with the smallest mean similarity to their {near.row.shape[1]} nearest; the first of these "
        read += "follow."
        return Section("outliers", "Outliers", read, table_of(lines, "Outliers and their neighbours"))


def similarities(nearest: Float[Tensor, " N"]) -> Section:
    """How similar the nearest other image is, to choose a threshold."""
    values = nearest.clamp(max=1).numpy()
    figure, axes = charts.canvas()
    counts, edges = np.histogram(values, 50, range=(min(float(values.min()), 0.99), 1))
    axes.stairs(counts, edges, color=charts.COLOURS[0], fill=True, alpha=0.6)
    axes.set(xlabel="cosine similarity to the nearest other image", ylabel="images")
    axes.locator_params(axis="x", nbins=4)
    charts.fit(figure, axes)
    rows = [["similarity of at least", "images"], *([f"{level:g}", str((values >= level).sum())] for level in LEVELS)]
    read = "Near-duplicates are at the right end. A collapsed encoder has all images there."
    name = "Similarity to the nearest image"
    return Section("similarities", name, read, chart(figure, name, rows))


def cell(picture: bytes | None, name: str, said: Sequence[str]) -> Markup:
    """A picture with lines of text below it."""
    below = Markup("<small>{}</small>").format(Markup("<br>").join(filter(None, said)))
    if picture is None:
        return below
    address = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    return Markup('<img class="thumbnail" alt="{0}" title="{0}" src="{1}">{2}').format(name, address, below)


def short(name: str) -> str:
    """The last two parts of a path.

    >>> short("data/images/train/cat/7.jpg"), short("test 7")
    ('cat/7.jpg', 'test 7')
    """
    return "/".join(Path(name).parts[-2:])


def table_of(lines: Sequence[Line], caption: str) -> Markup:
    """Lines of images."""
    rows = []
    for head, images in lines:
        cells = Markup().join(Markup("<td>{}</td>").format(image) for image in images)
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(head, cells))
    return scrollable_table(Markup("<tbody>{}</tbody>").format(Markup().join(rows)), caption, "images")
