"""Columns of tables as text, and classes in order."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from simmim_pl.contracts import InputError
from simmim_pl.data.files.table import labels_of, read_table, sorted_classes, text_column


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array(["b ", "a"]), ["b", "a"]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),  # how pandas writes categories
        (pa.array([10, 9], pa.uint8()), ["10", "9"]),
        (pa.array([True, False]), ["true", "false"]),
    ],
)
def test_text_whole_numbers_and_truth_values_are_text(tmp_path: Path, column: pa.Array, text: list[str]) -> None:
    parquet.write_table(pa.table({"class": column}), tmp_path / "list.parquet")
    assert text_column(read_table(tmp_path / "list.parquet", []), "class", "list", "class") == text


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([0.5]), "the column class holds double, and text or whole numbers are required"),
        (pa.array(["a", None, ""]), "row 2 has no class in the column class, as 2 of 3 rows"),
        (pa.array([None]), "row 1 has no class"),
    ],
)
def test_other_columns_are_refused(column: pa.Array, says: str) -> None:
    with pytest.raises(InputError, match=f"list: {says}"):
        text_column(pa.table({"class": column}), "class", "list", "class")


@given(st.lists(st.integers(-99, 999), min_size=1))
def test_numbers_are_classes_in_their_order(numbers: list[int]) -> None:
    names = [str(number) for number in numbers]
    classes = sorted_classes(names)
    assert classes == [str(number) for number in sorted(set(numbers))]
    assert [classes[label] for label in labels_of(names, classes, "list").tolist()] == names


def test_zeros_in_front_and_signs_stay_in_text_files(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes('\ufeffpath,class\n"a, b.png",007\n'.encode())
    table = read_table(tmp_path / "list.csv", ["class"])
    assert text_column(table, "class", "list", "class") == ["007"]
    assert text_column(table, "path", "list", "path") == ["a, b.png"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("list.csv", b"", "cannot be read as a table .*[Ee]mpty"),
        ("list.csv", b"path,class\na\n", "cannot be read as a table .*Expected 2 columns, got 1"),
        ("list.csv", b"path,class\n", "has no rows: list at least one image"),
        ("list.parquet", b"PAR?", "cannot be read as a table"),
        ("list.xlsx", b"", r"is no \.csv, \.tsv or \.parquet file"),
    ],
)
def test_unreadable_tables_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} {says}"):
        read_table(tmp_path / name, [])
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read as a table .*nowhere"):
        read_table(tmp_path / "nowhere.csv", [])
