"""Charts draw what they are given, in colours that the page may change."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from simmim_pl.report import charts

SVG = "{http://www.w3.org/2000/svg}"
PLACE = np.random.default_rng(0).normal(size=(40, 2))
FIGURES = {
    "curves": lambda: charts.curves([("a", np.arange(5.0), np.arange(5.0) ** 2), ("b", np.arange(2.0), np.ones(2))]),
    "similarities": lambda: charts.similarities(np.array([0, 1, 5, 9]), np.array([1, 8, 6, 0])),
    "spectrum": lambda: charts.spectrum(np.array([4.0, 2.0, 0.0])),
    "scatter": lambda: charts.scatter(PLACE, np.arange(40) % 3, ["x", "y", "z"], [0.5, 0.25]),
    "confusion": lambda: charts.confusion(np.array([[3.0, 1.0], [0.0, 0.0]]), ["cat", "dog"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_chart_is_one_picture_in_the_pages_colours(name: str) -> None:
    text = charts.svg(FIGURES[name](), 'what "it" < says')
    root = ET.fromstring(text.replace("xlink:", "").replace("xmlns:xlink", "x"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'what "it" < says'
    assert root.get("width") is None  # as wide as its place
    assert "currentColor" in text
    left = {colour for colour in [charts.INK, *charts.COLOURS] if colour in text}
    assert not left
    texts = set(root.iter(f"{SVG}text"))
    painted = [node for node in root.iter() if "fill: currentColor" in node.get("style", "")]
    assert texts
    assert texts <= {text for node in painted for text in node.iter(f"{SVG}text")}  # others would be black


@pytest.mark.parametrize("name", FIGURES)
def test_a_chart_is_drawn_the_same_every_time(name: str) -> None:
    assert charts.svg(FIGURES[name](), "a") == charts.svg(FIGURES[name](), "a")


def test_two_charts_of_a_page_share_no_names() -> None:
    found = []
    for name in ("one", "two"):
        root = ET.fromstring(charts.svg(FIGURES["curves"](), name).replace("xlink:", ""))
        found.append({node.get("id") for node in root.iter(f"{SVG}clipPath")})
    assert found[0]
    assert not found[0] & found[1]


def lines(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_xydata() for line in figure.axes[0].lines}


def test_curves_are_the_points_that_were_given() -> None:
    found = lines(FIGURES["curves"]())
    np.testing.assert_array_equal(found["a"], [[0, 0], [1, 1], [2, 4], [3, 9], [4, 16]])
    np.testing.assert_array_equal(found["b"], [[0, 1], [1, 1]])


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=2000))
def test_a_long_curve_keeps_its_range_and_its_length_is_bounded(values: list[float]) -> None:
    thin = charts.thin(np.array(values))
    assert len(thin) == min(len(values), charts.POINTS)
    assert min(values) - 1e-9 <= thin.min() <= thin.max() <= max(values) + 1e-9
    if len(values) <= charts.POINTS:
        assert thin.tolist() == values


def test_histograms_are_shares() -> None:
    figure = FIGURES["similarities"]()
    positive = next(part for part in figure.axes[0].patches if part.get_label() == "one image")
    assert positive.get_data().values.tolist() == [0, 1 / 15, 5 / 15, 9 / 15]
    assert positive.get_data().edges.tolist() == [-1, -0.5, 0, 0.5, 1]


def test_the_spectrum_is_relative_to_the_greatest() -> None:
    (data,) = lines(FIGURES["spectrum"]()).values()
    np.testing.assert_allclose(data, [[1, 1], [2, 0.5], [3, 1e-8]])


def test_every_class_of_the_map_has_its_colour_mark_and_name() -> None:
    figure = FIGURES["scatter"]()
    parts = figure.axes[0].collections
    assert [part.get_label() for part in parts] == ["x", "y", "z"]
    np.testing.assert_array_equal(np.asarray(parts[1].get_offsets()), PLACE[1::3])
    assert len({part.get_facecolor().tobytes() for part in parts}) == 3
    assert len({part.get_paths()[0].vertices.tobytes() for part in parts}) == 3


def test_a_map_without_labels_has_no_legend_and_one_with_many_classes_is_drawn() -> None:
    assert not charts.scatter(PLACE, np.full(40, -1), [], [0.5, 0.25]).legends
    many = charts.scatter(PLACE, np.arange(40), [str(i) for i in range(40)], [0.5, 0.25])
    assert len(many.legends[0].get_texts()) == len(charts.COLOURS)


@pytest.mark.parametrize("name", [r"$\frac$", "_hidden", "a & <b>"])
def test_any_name_is_shown_as_it_is(name: str) -> None:
    for figure in (
        charts.curves([(name, np.arange(3.0), np.arange(3.0)), ("b", np.arange(3.0), np.arange(3.0))]),
        charts.scatter(PLACE, np.zeros(40, dtype=int), [name], [0.5, 0.2]),
        charts.confusion(np.eye(2), [name, "b"]),
    ):
        text = "".join(ET.fromstring(charts.svg(figure, "a").replace("xlink:", "")).itertext())
        assert name in text


def test_rows_of_a_confusion_are_shares_and_an_empty_one_is_nothing() -> None:
    (image,) = FIGURES["confusion"]().axes[0].images
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25], [0, 0]])


def test_a_png_is_an_image_on_white() -> None:
    image = Image.open(io.BytesIO(charts.png(FIGURES["scatter"]()))).convert("RGB")
    assert min(image.size) > 200
    assert image.getpixel((1, 1)) == (255, 255, 255)
