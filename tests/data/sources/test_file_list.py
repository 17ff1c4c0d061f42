"""Lists of images as CSV and Parquet, with and without classes and splits."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import csv, parquet

from simmim_pl.contracts import InputError
from simmim_pl.data import FileList
from simmim_pl.data.source import ImageDataset

ROWS = {
    "path": ["c.png", "deep/a.png", "b.png", "d.png", "e.png"],
    "label": ["9", "10", "9", "10", "9"],
    "split": ["train", "Train", "test", "val", "train"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images whose red channel is the position of their row."""
    for red, name in enumerate(ROWS["path"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (red, 0, 0)).save(tmp_path / name)
    return tmp_path


def write(path: Path, /, **columns: Any) -> str:
    """A list of the rows, with some columns replaced or, as ``None``, left out."""
    table = pa.table({name: column for name, column in {**ROWS, **columns}.items() if column is not None})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        csv.write_csv(table, path, csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    return str(path)


def reds(images: ImageDataset) -> list[int]:
    return images.read(torch.arange(len(images)))[:, 0, 0, 0].tolist()


def labels(images: ImageDataset) -> list[int] | None:
    return None if images.labels is None else images.labels.tolist()


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.parquet"])
@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_list_is_read_in_its_order(
    folder: Path, name: str, memory_gb: float, caplog: pytest.LogCaptureFixture
) -> None:
    source = FileList(write(folder / name), memory_gb=memory_gb)
    with caplog.at_level("INFO"):
        source.prepare()
    assert "list: 3 images of train, 1 image of test, of 2 classes (9, 10)." in caplog.text
    train, test = source.load("train"), source.load("test")
    assert source.has_test()
    assert source.classes == ["9", "10"]  # numbers in their order
    assert (reds(train), labels(train), reds(test), labels(test)) == ([0, 1, 4], [0, 1, 0], [2], [0])
    assert train.files == [str(folder / path) for path in ("c.png", "deep/a.png", "e.png")]
    assert train.workers == (memory_gb == 0)


@pytest.mark.parametrize("word", ["val", "valid", "Validation"])
def test_validation_is_test_where_there_is_no_test(folder: Path, word: str) -> None:
    source = FileList(write(folder / "list.csv", split=["train", "train", word, word, "train"]))
    assert reds(source.load("test")) == [2, 3]


def test_without_a_column_of_splits_all_is_train(folder: Path) -> None:
    source = FileList(write(folder / "list.csv", split=None))
    source.prepare()
    assert (reds(source.load("train")), source.has_test()) == ([0, 1, 2, 3, 4], False)
    with pytest.raises(InputError, match=r"list\.csv has no test split, .*simmim_pl\.data\.HeldOut"):
        source.load("test")


def test_labels_are_optional(folder: Path) -> None:
    for source in (
        FileList(write(folder / "without.csv", label=None)),
        FileList(write(folder / "list.csv"), labels=False),
    ):
        assert labels(source.load("train")) is None
        assert source.classes == []
        assert len(source.load("test")) == 1


def test_columns_have_any_names_and_paths_any_root(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    columns = {
        "path": None,
        "label": None,
        "split": None,
        "file": ROWS["path"],
        "kind": list("babab"),
        "part": ROWS["split"],
    }
    path = write(tmp_path_factory.mktemp("lists") / "list.csv", **columns)
    names = {"path_column": "file", "label_column": "kind", "split_column": "part"}
    source = FileList(path, str(folder), **names)
    source.prepare()
    assert (labels(source.load("train")), source.classes) == ([1, 0, 1], ["a", "b"])


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "has no column file: its columns are path, label, split": ({}, {"path_column": "file"}),
    "has no column kind: its columns are path, label, split": ({}, {"label_column": "kind"}),
    "has no column part: its columns are path, label, split": ({}, {"split_column": "part"}),
    "has no column label: its columns are path, split": ({"label": None}, {"labels": True}),
    r"1 of 3 images of train in .*list\.csv are missing, such as .*nowhere\.png": (
        {"path": ["c.png", "nowhere.png", "b.png", "d.png", "e.png"]},
        {},
    ),
    "row 2 is of the split later, and splits are train, test, val": (
        {"split": ["train", "later", "test", "test", "train"]},
        {},
    ),
    "has no row of the split train": ({"split": ["test"] * 5}, {}),
    "only one class, 9, .*set labels to false": ({"label": ["9"] * 5}, {}),
    "holds the class 10 in test and not in train": ({"label": ["8", "9", "10", "8", "9"]}, {}),
    "row 4 has no class in the column label, as 1 of 5 rows": ({"label": ["1", "2", "1", "", "1"]}, {}),
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_bad_list_is_refused(folder: Path, says: str) -> None:
    columns, options = REFUSED[says]
    with pytest.raises(InputError, match=says):
        FileList(write(folder / "list.csv", **columns), **options).prepare()


def test_what_may_be_a_mistake_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {"label": None, " label": ROWS["label"], "path": ["c.png", "b.png", "c.png", "b.png", "b.png"]}
    with caplog.at_level("INFO"):
        FileList(write(folder / "list.csv", **columns)).prepare()
        assert "of test, without labels (label_column can be set to  label).\n" in caplog.text
        assert "list: 2 rows with the path of another row, kept as more images." in caplog.text
        caplog.clear()
        FileList(write(folder / "list.csv"), labels=False).prepare()
    assert [record.message for record in caplog.records if record.name != "wandb"] == [
        "list: 3 images of train, 1 image of test, without labels."
    ]


def test_two_columns_of_one_name_are_refused(folder: Path) -> None:
    (folder / "list.csv").write_text("path,label,label\nc.png,1,2\n")
    with pytest.raises(InputError, match=r"list\.csv has several columns named label: rename all but one"):
        FileList(str(folder / "list.csv")).prepare()
