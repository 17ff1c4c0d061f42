"""Charts show the given data, and cut nothing off."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from simmim_pl.report import charts
from simmim_pl.report.svg import to_svg

LAYERS = np.array([[1, 2, 3], [50, 70, 60], [45, 66, 58], [55, 74, 62]])  # layer, value, low, high
PLACE = np.random.default_rng(0).normal(size=(40, 2))
FIGURES: dict[str, Callable[..., Figure]] = {
    "curves": partial(charts.curves, [("a", np.arange(5.0), np.arange(5.0) ** 2), ("b", np.arange(2.0), np.ones(2))]),
    "similarities": partial(charts.similarities, np.array([0, 1, 5, 9]), np.array([1, 8, 6, 0])),
    "spectrum": partial(charts.spectrum, np.array([4.0, 2.0, 0.0])),
    "by depth": partial(charts.by_depth, [LAYERS, LAYERS - [[0], [9], [9], [9]]], "accuracy, %"),
    "scatter": partial(charts.scatter, PLACE, np.arange(40) % 3, ["x", "y", "z"], [0.5, 0.25]),
}


def lines(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_xydata() for line in figure.axes[0].lines}


def test_curves_have_the_given_points() -> None:
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


def test_histograms_show_shares() -> None:
    figure = FIGURES["similarities"]()
    positive = next(part for part in figure.axes[0].patches if part.get_label() == "one image")
    assert positive.get_data().values.tolist() == [0, 1 / 15, 5 / 15, 9 / 15]
    assert positive.get_data().edges.tolist() == [-1, -0.5, 0, 0.5, 1]


def test_a_metric_by_depth_has_its_interval() -> None:
    (axes,) = FIGURES["by depth"]().axes
    for line, band, shift in zip(axes.lines, axes.collections, (0, 9), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), [[1, 50 - shift], [2, 70 - shift], [3, 60 - shift]])
        edge = {tuple(point) for point in band.get_paths()[0].vertices}
        assert {(1, 45 - shift), (3, 58 - shift), (2, 74 - shift)} <= edge
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_the_spectrum_is_relative_to_its_maximum() -> None:
    (data,) = lines(FIGURES["spectrum"]()).values()
    np.testing.assert_allclose(data, [[1, 1], [2, 0.5], [3, 1e-8]])


def test_every_class_of_the_map_has_a_colour_marker_and_name() -> None:
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
    others, *told = (part.get_facecolor()[0] for part in many.axes[0].collections)
    assert not any(np.array_equal(others[:3], colour[:3]) for colour in told)
    assert others[3] < told[0][3]


def drawn(figure: Figure) -> list[tuple[str, Any]]:
    """Every visible text and its box in pixels."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    ends = [(axis, *sorted(axis.get_view_interval())) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    outside = {
        label
        for axis, low, high in ends
        for tick in axis.get_major_ticks() + axis.get_minor_ticks()
        for label in (tick.label1, tick.label2)
        if not low <= tick.get_loc() <= high
    }
    return [(text.get_text(), text.get_window_extent()) for text in texts if text not in outside]


def cut_off(figure: Figure) -> list[str]:
    """Texts that exceed the figure's edge by more than half a pixel."""
    found = drawn(figure)
    assert len(found) > 3
    edge = figure.bbox.padded(0.5)
    return [text for text, box in found if not (edge.contains(*box.min) and edge.contains(*box.max))]


@pytest.mark.parametrize("label", ["", "loss"])
@pytest.mark.parametrize(
    ("low", "high"),
    [(-1234567.0, -3.0), (-1e-7, 1e-7), (-0.00123, -0.00121), (1e5, 1e5 + 1), (-2e12, 5.0), (0.0, 0.0), (-1e-300, 1.0)],
)
def test_no_number_of_curves_is_cut_off(low: float, high: float, label: str) -> None:
    assert cut_off(charts.curves([("a", np.array([0.0, 123_456.0]), np.array([low, high]))], label)) == []


@settings(max_examples=10, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(1, 10**8))
def test_no_axis_number_is_cut_off_for_any_range(low: float, high: float, steps: int) -> None:
    assert cut_off(charts.curves([("a", np.array([0.0, steps]), np.array([low, high]))], "a")) == []


@pytest.mark.parametrize("least", [0.9, 0.2, 0.02, 1e-5, 0.0])
def test_no_number_of_a_spectrum_is_cut_off(least: float) -> None:
    figure = charts.spectrum(np.array([3.0, 3 * (1 + least) / 2, 3 * least]))
    assert cut_off(figure) == []
    assert len([text for text, _ in drawn(figure) if re.fullmatch(r"[\d.e−-]+", text)]) > 3


@pytest.mark.parametrize("name", ["similarities", "spectrum", "scatter"])
def test_no_label_of_another_chart_is_cut_off(name: str) -> None:
    assert cut_off(FIGURES[name]()) == []


@pytest.mark.parametrize("name", [r"$\frac$", "_hidden", "a & <b>", "قطة", "κατ"])
def test_any_name_is_shown_literally(name: str) -> None:
    for figure in (
        charts.curves([(name, np.arange(3.0), np.arange(3.0)), ("b", np.arange(3.0), np.arange(3.0))]),
        charts.scatter(PLACE, np.zeros(40, dtype=int), [name], [0.5, 0.2]),
    ):
        text = "".join(ET.fromstring(to_svg(figure, "a").replace("xlink:", "")).itertext())
        assert name in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["\ue000猫", "a\nb"])
def test_a_name_without_a_font_is_replaced_by_a_number(name: str) -> None:
    figure = charts.scatter(PLACE, np.arange(40) % 2, ["cat", name], [0.5, 0.2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "class 1"]
    charts.png(figure)  # matplotlib would warn of a missing glyph
    series = [(name, np.arange(3.0), np.arange(3.0)), ("b", np.arange(3.0), np.arange(3.0))]
    charts.png(charts.curves(series))


@pytest.mark.filterwarnings("error")
def test_a_long_name_is_shortened() -> None:
    figure = charts.scatter(PLACE, np.arange(40) % 2, ["cat", "dog" * 100], [0.5, 0.2])
    assert cut_off(figure) == []
    assert figure.axes[0].get_position().width > 0.3


def test_without_a_legend_no_name_is_in_the_picture() -> None:
    for name in ("curves", "similarities", "scatter"):
        texts = [text for text, _ in drawn(FIGURES[name](legend=False))]
        assert not {"a", "b", "x", "y", "one image", "different images"} & set(texts)


def test_chance_is_a_line_across() -> None:
    found = charts.curves([("a", np.arange(5.0), np.arange(5.0))], chance=[-3.0]).axes[0]
    assert found.lines[-1].get_ydata() == [-3, -3]
    assert found.get_ylim()[0] < -3


def test_a_png_is_an_image_on_white() -> None:
    image = Image.open(io.BytesIO(charts.png(FIGURES["scatter"]()))).convert("RGB")
    assert min(image.size) > 200
    assert image.getpixel((1, 1)) == (255, 255, 255)
