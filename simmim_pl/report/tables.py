"""Tables within a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup


def table(rows: Sequence[Sequence[Any]], caption: str = "", kind: str = "") -> Markup:
    """A table whose first row and column are heads. Cells are text, or Markup.

    - ``kind``: its class in the page's style sheet.
    """
    head = Markup().join(Markup('<th scope="col">{}</th>').format(cell) for cell in rows[0])
    lines = []
    for first, *others in rows[1:]:
        row = Markup('<th scope="row">{}</th>').format(first)
        lines.append(row + Markup().join(Markup("<td>{}</td>").format(cell) for cell in others))
    body = Markup().join(Markup("<tr>{}</tr>").format(line) for line in lines)
    inner = Markup("<thead><tr>{}</tr></thead><tbody>{}</tbody>").format(head, body)
    return framed(inner, caption, kind)


def framed(inner: Markup, caption: str, kind: str) -> Markup:
    """A table that scrolls by itself where the page is narrow."""
    said = Markup("<caption>{}</caption>").format(caption) if caption else Markup()
    return Markup('<div class="scroll" tabindex="0"><table class="{}">{}{}</table></div>').format(kind, said, inner)


def numbered(rows: Sequence[Sequence[Any]], name: str, summary: str = "Numbers") -> Markup:
    """The numbers of a picture as a table below it, which a screen reader reads in its place."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, table(rows, name))
