"""HTML tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup


def html_table(rows: Sequence[Sequence[Any]], caption: str = "", kind: str = "") -> Markup:
    """A table whose first row and first column are headers.

    Args:
        rows: cells, as text (which is escaped) or Markup.
        caption: of the table.
        kind: its CSS class.
    """
    head = Markup().join(Markup('<th scope="col">{}</th>').format(cell) for cell in rows[0])
    lines = []
    for first, *others in rows[1:]:
        row = Markup('<th scope="row">{}</th>').format(first)
        lines.append(row + Markup().join(Markup("<td>{}</td>").format(cell) for cell in others))
    body = Markup().join(Markup("<tr>{}</tr>").format(line) for line in lines)
    inner = Markup("<thead><tr>{}</tr></thead><tbody>{}</tbody>").format(head, body)
    return scrollable_table(inner, caption, kind)


def scrollable_table(inner: Markup, caption: str, kind: str) -> Markup:
    """Wrap rows in a table that scrolls horizontally on a narrow page."""
    said = Markup("<caption>{}</caption>").format(caption) if caption else Markup()
    return Markup('<div class="scroll" tabindex="0"><table class="{}">{}{}</table></div>').format(kind, said, inner)


def collapsed_table(rows: Sequence[Sequence[Any]], name: str, summary: str = "Numbers") -> Markup:
    """The numbers of a chart in a collapsed table below it, for screen readers too."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, html_table(rows, name))
