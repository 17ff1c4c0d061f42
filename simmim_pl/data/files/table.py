"""Tables of images: their columns as text, and labels as positions in the sorted classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.contracts import InputError


def read_table(file: Path, text: list[str]) -> Any:
    """The table of a file, as ``pyarrow.Table``.

    Args:
        file: ``.parquet``; or ``.csv`` or ``.tsv``, with the names of the columns in the first line.
        text: columns that are text, where the file does not say so.

    Raises:
        InputError: it cannot be read, is of another format, or has no rows.
    """
    import pyarrow as pa  # takes a third of a second, and only lists need it
    from pyarrow import csv, parquet

    if file.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"{file} is no .csv, .tsv or .parquet file: convert it to one of them.")
    try:
        if file.suffix.lower() == ".parquet":
            table = parquet.read_table(file)
        else:
            parse = csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            convert = csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()))
            table = csv.read_csv(file, parse_options=parse, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as a table ({' '.join(str(error).split())}): replace it.") from error
    if not table.num_rows:
        raise InputError(f"{file} has no rows: list at least one image.")
    return table


def text_column(table: Any, name: str, of: object, noun: str) -> list[str]:
    """A column of text, whole numbers or truth values, as text.

    Args:
        table: a ``pyarrow.Table``.
        name: of the column.
        of: the file, for errors.
        noun: what a row of the column is called, for errors.

    Raises:
        InputError: there is no such column, it is of another type, or a row is empty.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.column_names:
        raise InputError(f"{of} has no column {name}: its columns are {', '.join(table.column_names)}.")
    if table.column_names.count(name) > 1:
        raise InputError(f"{of} has several columns named {name}: rename all but one.")
    column = table.column(name)
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(kind(values) for kind in kinds):
        raise InputError(f"{of}: the column {name} holds {values}, and text or whole numbers are required.")
    text: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    empty = [row for row, each in enumerate(text) if not each or not each.strip()]
    if empty:
        raise InputError(
            f"{of}: row {empty[0] + 1} has no {noun} in the column {name}, as {len(empty)} of {len(text)} rows: fill "
            "it in, or remove the row."
        )
    return [str(each).strip() for each in text]


def sorted_classes(names: list[str]) -> list[str]:
    """The different names, sorted: as numbers if all are whole numbers, else as text.

    >>> sorted_classes(["10", "9", "10"]), sorted_classes(["b", "10", "9"])
    (['9', '10'], ['10', '9', 'b'])
    """
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(set(names), key=(lambda name: (int(name), name)) if numbers else (lambda name: (0, name)))


def labels_of(names: list[str], classes: list[str], of: object) -> Int64[Tensor, " N"]:
    """Position of each name in ``classes``. Raises :class:`InputError` for another name."""
    position = {name: label for label, name in enumerate(classes)}
    unknown = next((name for name in names if name not in position), None)
    if unknown is not None:
        raise InputError(f"{of} holds the class {unknown} in test and not in train: add training images of it.")
    return torch.tensor([position[name] for name in names], dtype=torch.int64)


def require_two(classes: list[str], of: object) -> list[str]:
    """The classes. Raises :class:`InputError` if there is only one."""
    if len(classes) < 2:
        raise InputError(
            f"{of} holds only one class, {classes[0]}, so there is nothing to classify: set labels to false, or add "
            "another class."
        )
    return classes


def without_labels(columns: list[str], labels: bool | None) -> str:
    """That images have no labels, with the columns that could be of classes unless the user wants none.

    >>> without_labels(["kind"], None), without_labels(["kind"], False)
    ('without labels (label_column can be set to kind)', 'without labels')
    """
    choice = f" (label_column can be set to {', '.join(columns)})" if columns and labels is None else ""
    return f"without labels{choice}"
