"""Confusion matrices are named and complete, in any script."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simmim_pl.report.cards import confusion, results
from simmim_pl.report.run import Run, load_run
from tests.report.test_run import directory
from tests.report.test_tables import rows_of

NAMES = ["猫", "قطة", "a & <b>", "a name that does not end " * 5]
COUNTS = [[3, 1, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [1, 1, 1, 997]]


def evaluated(folder: Path, names: list[str] = NAMES, counts: Any = COUNTS, **more: Any) -> Run:
    """A run whose card has one result of its encoder and one of a baseline."""
    run = load_run(directory(folder))
    found = {
        "task": "KNN",
        "variant": "k=5",
        "data": "Pets",
        "metrics": {"accuracy": {"value": 0.5, "interval": [0, 1]}},
    }
    found |= {"per_class": dict.fromkeys(names, 0.5), "confusion": counts} | more
    run.cards = [{"command": "c", "results": [found | {"encoder": "pretrained"}, found | {"encoder": "untrained"}]}]
    return run


def test_a_confusion_matrix_has_a_title_and_every_share_and_count(tmp_path: Path) -> None:
    html = confusion(evaluated(tmp_path / "some/1"))
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["KNN, k=5 on Pets, encoder: pretrained"]
    rows = rows_of(html)
    assert rows[0] == ["true class ↓ taken for →", *map(str.strip, NAMES)]
    assert [row[1:] for row in rows[1:5]] == [["75", "25", "", ""], ["", "100", "", ""], [""] * 4, ["", "", "", "100"]]
    assert [row[0] for row in rows[1:5]] == [name.strip() for name in NAMES]
    shares = np.array(re.findall(r"--share: ([\d.]+)", html), dtype=float).reshape(4, 4)
    expected = np.array(COUNTS) / [[4], [4], [1], [1000]]
    np.testing.assert_allclose(shares, expected, atol=5e-4)
    assert rows[-1][1:] == ["1", "1", "1", "997"]


def test_many_classes_have_a_pixel_per_pair_and_a_list_of_the_worst(tmp_path: Path) -> None:
    counts = 50 * np.eye(40, dtype=int)
    counts[3, 7], counts[9, 2] = 50, 1
    html = confusion(evaluated(tmp_path / "some/1", [f"c{n}" for n in range(40)], counts.tolist()))
    assert "encoder: pretrained</figcaption>" in html
    (picture,) = re.findall(r"base64,([^\"]+)", html)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    np.testing.assert_array_equal(image[..., 3], np.round(255 * counts / counts.sum(1, keepdims=True)))
    assert rows_of(html) == [["true class", "taken for", "times"], ["c3", "c7", "50"], ["c9", "c2", "1"]]


def test_many_classes_without_confusion_have_no_list(tmp_path: Path) -> None:
    html = confusion(evaluated(tmp_path / "some/1", [f"c{n}" for n in range(40)], np.eye(40).tolist()))
    assert "base64" in html
    assert rows_of(html) == []


@pytest.mark.parametrize("more", [{"confusion": None}, {"confusion": []}])
def test_a_result_without_a_confusion_matrix_shows_none(tmp_path: Path, more: dict[str, Any]) -> None:
    assert confusion(evaluated(tmp_path / "some/1", **more)) == ""


def test_a_card_has_the_width_of_the_page(tmp_path: Path) -> None:
    html = results(evaluated(tmp_path / "some/1"))
    assert 'class="card"' in html
    assert rows_of(html)[1] == ["Pets", "KNN, k=5", "accuracy", "50.0 [0.0–100.0]", "50.0 [0.0–100.0]"]
