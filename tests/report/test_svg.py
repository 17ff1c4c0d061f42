"""A figure in a page has the page's colours, and shares no ids with another."""

import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from simmim_pl.report import charts
from simmim_pl.report.svg import line_sample, marker_sample, series_dash, to_svg
from tests.report.test_charts import FIGURES

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text.replace("xlink:", "").replace("xmlns:xlink", "x"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_chart_is_one_svg_in_the_pages_colours(name: str) -> None:
    text = to_svg(FIGURES[name](), 'what "it" < says')
    root = parsed(text)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'what "it" < says'
    assert root.get("width") is None  # as wide as its container
    assert "currentColor" in text
    left = {colour for colour in [charts.INK, *charts.COLOURS] if colour in text}
    assert not left
    texts = set(root.iter(f"{SVG}text"))
    painted = [node for node in root.iter() if "fill: currentColor" in node.get("style", "")]
    assert texts
    assert texts <= {text for node in painted for text in node.iter(f"{SVG}text")}  # others would be black


@pytest.mark.parametrize("name", FIGURES)
def test_charts_are_deterministic(name: str) -> None:
    assert to_svg(FIGURES[name](), "a") == to_svg(FIGURES[name](), "a")


def test_two_charts_of_a_page_have_different_ids() -> None:
    found = []
    for name in ("one", "two"):
        found.append({node.get("id") for node in parsed(to_svg(FIGURES["curves"](), name)).iter(f"{SVG}clipPath")})
    assert found[0]
    assert not found[0] & found[1]


def test_a_legend_sample_has_the_style_of_its_curve() -> None:
    series = [(str(number), np.arange(20.0), np.arange(20.0)) for number in range(5)]
    drawn = charts.curves(series).axes[0].lines
    for number, curve in enumerate(drawn):
        sample = parsed(line_sample(f"var(--series-{number})", series_dash(number)))
        assert sample[0].get("stroke") == f"var(--series-{number})"
        assert (sample[0].get("stroke-dasharray") == "none") == (curve.get_linestyle() == "-")
    assert len({series_dash(number) for number in range(4)}) == 4
    assert series_dash(4) == series_dash(0)


@pytest.mark.parametrize("number", range(len(charts.MARKERS)))
def test_a_legend_marker_is_within_its_picture_and_of_its_class(number: int) -> None:
    (shape,) = parsed(marker_sample(number))
    points = np.array([point.split(",") for point in shape.get("points", "").split()], dtype=float)
    assert 0 <= points.min() < points.max() <= 8
    assert shape.get("fill") == f"var(--series-{number})"
    style = matplotlib.markers.MarkerStyle(charts.MARKERS[number])
    assert len(points) == len(style.get_path().to_polygons()[0])
