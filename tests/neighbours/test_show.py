"""The command finds what was planted, its page needs nothing else, and every wrong input is one sentence."""

import csv
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from playwright.sync_api import Page
from pyarrow import parquet

from simmim_pl.neighbours.table import read_table
from tests.callbacks.test_embeddings import predict
from tests.neighbours.conftest import Show, smooth
from tests.report.test_page import CHROMIUM, Nesting, browser  # noqa: F401, a fixture


def named(text: str) -> list[str]:
    """The names of the images in a part of a page, in order."""
    return [Path(name).name for name in re.findall(r'alt="([^"]+)"', text)]


def section(html: str, key: str) -> str:
    return html.split(f'id="{key}"')[1].split("</section>")[0]


def lines(part: str) -> list[list[str]]:
    return [named(line) for line in re.findall(r"<tr>.*?</tr>", part, re.DOTALL)]


@pytest.fixture
def here(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where predict ran, to which paths are relative."""
    folder = embedded.parents[3]
    monkeypatch.chdir(folder)
    return folder


def test_planted_duplicates_and_outliers_are_found(embedded: Path, here: Path, show: Show, tmp_path: Path) -> None:
    page = tmp_path / "made/page.html"
    assert (
        show(embedded, "--output", page, "--pairs", 2) == f"Written to {page} and {page.parent}/page_duplicates.csv\n"
    )
    html = page.read_text()
    assert all(address.startswith("data:") for address in Nesting(html).loaded)
    assert lines(section(html, "across")) == [["03.png", "leak.jpg"]]
    assert "1 of train<br>1 of test" in section(html, "across")
    assert lines(section(html, "within")) == [["06.png", "06again.jpg"]]
    assert lines(section(html, "outliers"))[0][0] == "odd.png"
    assert len(lines(section(html, "queries"))) == 8
    with (page.parent / "page_duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(Path(row["path"]).name, Path(row["other_path"]).name) for row in rows} == {
        ("03.png", "leak.jpg"),
        ("06.png", "06again.jpg"),
    }
    table = parquet.read_table(embedded).to_pylist()
    for row in rows:
        for side in ("", "other_"):
            known = table[int(row[f"{side}row"])]
            assert [str(known[name]) for name in ("split", "index", "path")] == [
                row[f"{side}{name}"] for name in ("split", "index", "path")
            ]
    assert len(page.read_bytes()) < 2e6


def test_a_threshold_lists_all_pairs_above_it(embedded: Path, here: Path, show: Show, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    show(embedded, "--output", page, "--threshold", 0.9, "--k", 31)
    unit = torch.nn.functional.normalize(read_table(embedded, tmp_path).features.clone())
    expected = int((unit @ unit.T).triu(1).ge(0.9).sum())
    assert len((tmp_path / "page_duplicates.csv").read_text().splitlines()) - 1 == expected
    assert f"{expected} pairs of 0.9 or more" in page.read_text()
    show(embedded, "--output", page, "--threshold", 1)
    assert "<p>None.</p>" in section(page.read_text(), "across")


def test_queries_are_rows_paths_and_new_files(
    embedded: Path, here: Path, show: Show, pretrained: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    queries = ["0", "images/test/b/leak.jpg", "new.jpg"]
    show(embedded, "--output", page, "--query", *queries, "--checkpoint", pretrained, "--k", 3)
    first, second, third = lines(section(page.read_text(), "queries"))
    assert (first[0], len(first)) == ("00.png", 4)
    assert second[:2] == ["leak.jpg", "03.png"]
    assert third[:2] == ["new.jpg", "05.png"]
    assert "not in the table" in page.read_text()


def test_a_set_without_files_is_shown_by_its_config(pretrained: Path, show: Show, cli: Any, refused: Show) -> None:
    run = cli(predict(pretrained, "--data.predict_split=test"))
    show(run / "embeddings.parquet")
    html = (run / "neighbours.html").read_text()
    queries = lines(section(html, "queries"))
    assert queries[0][0] == "test 0"
    assert len(queries[0]) == 11
    assert "label" not in section(html, "queries").replace("its label", "")  # classes have names
    (run / "config.yaml").rename(run / "other.yaml")
    show(run / "embeddings.parquet")
    html = (run / "neighbours.html").read_text()
    assert named(html) == []
    assert "config.yaml is not here: name the run&#39;s config with --data" in html
    assert "test 0<br>label" in section(html, "queries")
    show(run / "embeddings.parquet", "--data", run / "other.yaml")
    assert named((run / "neighbours.html").read_text())
    text = (run / "other.yaml").read_text()
    (run / "other.yaml").write_text(text.replace("test: 100", "test: 90"))
    assert "are not those of" in refused(run / "embeddings.parquet", "--data", run / "other.yaml")


def test_wrong_input_is_one_sentence(
    embedded: Path, here: Path, refused: Show, pretrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.parquet").write_text("no")
    for options, says in (
        ([tmp_path / "none.parquet"], "There is no file"),
        ([tmp_path / "text.parquet"], "text.parquet cannot be read as Parquet"),
        ([embedded, "--k", 0], "--k has to be 1 or more, and is 0."),
        ([embedded, "--k", 34], "--k 34 is more than the 31 other rows"),
        ([embedded, "--threshold", 2], "--threshold is a cosine similarity, from -1 to 1, and is 2."),
        ([embedded, "--threshold", 0.5, "--pairs", 3], "--pairs is the number of pairs without --threshold"),
        ([embedded, "--query", 32], "--query 32 is no row of"),
        ([embedded, "--query", "nothing.png"], "nothing.png is neither the number of a row, nor a path of the table"),
        ([embedded, "--query", "new.jpg"], "new.jpg is not in the table: name the encoder's checkpoint"),
        ([embedded, "--checkpoint", pretrained], "are for queries outside the table, and there are none"),
        ([embedded, "--data", "x.yaml"], "has the paths of its images, which are shown: remove --data."),
        (
            [embedded, "--query", "new.jpg", "--checkpoint", pretrained, "--size", 48],
            "on images of 48 pixels does not give the features of",
        ),
        ([embedded, "--output", "/proc/none/x.html"], "/proc/none"),
    ):
        assert says in refused(*options)
    assert not (embedded.parent / "neighbours.html").exists()


def test_images_that_are_not_here_are_left_out(embedded: Path, show: Show, tmp_path: Path) -> None:
    show(embedded, "--output", tmp_path / "page.html")  # in another folder than predict
    html = (tmp_path / "page.html").read_text()
    assert named(html) == []
    assert "paths are relative to the folder where predict ran" in html
    assert "a/00.png<br>train" in html


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_opens_on_any_width(embedded: Path, here: Path, show: Show, tmp_path: Path, browser: Any) -> None:  # noqa: F811
    show(embedded, "--output", tmp_path / "page.html")
    page: Page = browser(tmp_path / "page.html", viewport={"width": 360, "height": 800}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    loaded = "[...document.images].every((image) => image.naturalWidth > 0 && image.alt)"
    assert page.evaluate(loaded)
    assert page.locator("img").count() > 50
    tree = page.locator("body").aria_snapshot()
    assert 'heading "Near-duplicates across splits" [level=2]' in tree
    assert 'table "Queries and their neighbours"' in tree


def test_a_table_of_another_tool_is_shown_without_pictures(show: Show, tmp_path: Path) -> None:
    features = pa.FixedSizeListArray.from_arrays(torch.randn(30).double().numpy(), 3)
    columns = {"split": ["all"] * 10, "index": [*range(10)], "features": features}
    parquet.write_table(pa.table(columns), tmp_path / "embeddings.parquet")
    show(tmp_path / "embeddings.parquet", "--k", 3)
    assert "all 9" in (tmp_path / "neighbours.html").read_text()


def written(file: Path, rows: int, **columns: Any) -> Path:
    """A table of random features."""
    features = pa.FixedSizeListArray.from_arrays(torch.randn(3 * rows, generator=torch.manual_seed(0)).numpy(), 3)
    columns = {"split": ["train"] * rows, "index": [*range(rows)], **columns, "features": features}
    parquet.write_table(pa.table(columns), file)
    return file


def test_small_tables(show: Show, refused: Show, tmp_path: Path) -> None:
    show(written(tmp_path / "two.parquet", 2))
    assert lines(section((tmp_path / "neighbours.html").read_text(), "queries")) == [[], []]
    assert "to their 1 nearest" in (tmp_path / "neighbours.html").read_text()
    one = written(tmp_path / "one.parquet", 1)
    assert refused(one) == f"{one} has one row: there is nothing to compare it with."


def test_the_page_does_not_replace_the_table(refused: Show, tmp_path: Path) -> None:
    table = written(tmp_path / "embeddings.parquet", 12)
    assert "would replace the table" in refused(table, "--output", tmp_path / "../" / tmp_path.name / table.name)
    assert read_table(table, tmp_path).features.shape == (12, 3)


def test_images_without_a_path_among_files_and_moved_ones(show: Show, refused: Show, tmp_path: Path) -> None:
    gone = [None, *(f"/moved/{number}.png" for number in range(11))]
    table = written(tmp_path / "embeddings.parquet", 12, path=gone)
    show(table, "--query", "/moved/3.png")
    assert "/moved/3.png is not here: move it back, or run predict again." in (tmp_path / "neighbours.html").read_text()
    assert "neither the number of a row" in refused(table, "--query", "other.png")


def test_images_of_a_hugging_face_set_are_shown(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"image": [smooth(seed) for seed in range(12)]})
    rows.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "rows")
    source = {"class_path": "simmim_pl.data.HuggingFace", "init_args": {"path": str(tmp_path / "rows")}}
    config = {"data": {"init_args": {"source": source}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("simmim_pl.data.encoded.decode_all", lambda *given: pytest.fail("decodes all"))
    monkeypatch.setattr("simmim_pl.data.encoded.load_or_decode", lambda *given: pytest.fail("decodes all"))
    show(written(tmp_path / "embeddings.parquet", 12))
    assert "train 11" in named((tmp_path / "neighbours.html").read_text())
    source["init_args"]["path"] = "someone/images"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    show(tmp_path / "embeddings.parquet")
    assert "someone/images is not on this disk" in (tmp_path / "neighbours.html").read_text()
