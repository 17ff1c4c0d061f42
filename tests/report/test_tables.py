"""Tables show their values as text."""

import re
from html import unescape

from markupsafe import Markup

from simmim_pl.report.tables import collapsed_table, html_table


def rows_of(markup: str) -> list[list[str]]:
    """The cells of every table in HTML, without graphics."""
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", markup)]
    return [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_cells_are_escaped_unless_markup() -> None:
    found = html_table([["<a>", "b"], ["c & d", Markup("<i>e</i>")]], "<caption>", "kind")
    assert rows_of(found) == [["<a>", "b"], ["c & d", "e"]]
    assert "<i>e</i>" in found
    assert "<a>" not in found
    assert "<caption>&lt;caption&gt;</caption>" in found
    assert 'class="kind"' in found
    assert "<caption>" not in html_table([["a"]])


def test_numbers_are_folded_under_a_summary() -> None:
    found = collapsed_table([["a"], ["1"]], "of it", "More")
    assert found.startswith("<details><summary>More</summary>")
    assert "<caption>of it</caption>" in found
