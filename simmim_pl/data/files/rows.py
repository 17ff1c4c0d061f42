"""Open a Hugging Face data set with memory-mapped rows, and find its columns of images and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.contracts import InputError

FILES = (".parquet", ".arrow")


def open_rows(path: str, subset: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a data set, each a ``datasets.Dataset``; a single one is ``train``.

    Args:
        path: folder that ``save_to_disk`` wrote, file or folder of Parquet or Arrow files, or name on the hub.
        subset: name of a subset (configuration) of the data set.
        revision: on the hub.

    Raises:
        InputError: ``datasets`` is not installed, or cannot open it; an argument has no meaning for this path.
    """
    try:
        import datasets  # optional, and slow to import
    except ImportError as error:
        raise InputError(
            "To read Hugging Face data sets, install datasets: pip install 'simmim_pl[huggingface]'."
        ) from error
    place = Path(path).expanduser()
    saved = (place / "dataset_dict.json").is_file() or (place / "state.json").is_file()
    single = place.is_file() and place.suffix in FILES
    if not place.exists() and (path.count("/") > 1 or path[:1] in (".", "~", "/") or place.suffix in FILES):
        raise InputError(f"There is no {path}: set the source's path to a file, a folder or a name on the hub.")
    if (revision and place.exists()) or (subset and (saved or single)):
        raise InputError(f"{path} is on disk, so subset or revision has no meaning: remove it.")
    try:
        if saved:
            found = datasets.load_from_disk(str(place), keep_in_memory=False)
        elif single:
            found = datasets.load_dataset(place.suffix[1:], data_files=str(place), keep_in_memory=False)
        else:
            name = str(place) if place.exists() else path
            found = datasets.load_dataset(name, subset, revision=revision, keep_in_memory=False)
    except Exception as error:  # of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be opened by datasets ({reason.rstrip('.')}): correct the path.") from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def image_column(rows: Any, named: str | None, of: str) -> str:
    """The column of images: the one that is named, or else the only one of type ``Image``.

    Raises:
        InputError: there is no such column, or there are several.
    """
    return one_column(rows, named, "Image", f"{of}: set image_column")


def label_column(rows: Any, named: str | None, labels: bool | None, of: str) -> str | None:
    """The column of classes: the one that is named, or else the only one of type ``ClassLabel``; ``None`` for none.

    Raises:
        InputError: ``labels`` are wanted, or a column is named, and there is none; there are several.
    """
    if labels is False or (labels is None and named is None and not columns_of_type(rows, "ClassLabel")):
        return None
    return one_column(rows, named, "ClassLabel", f"{of}: set labels to false, or label_column")


def one_column(rows: Any, named: str | None, kind: str, advice: str) -> str:
    """The column of this name, or the only one of this type. Raises :class:`InputError` unless there is just one."""
    found = columns_of_type(rows, kind) if named is None else [name for name in rows.features if name == named]
    if len(found) != 1:
        several = f"there are {len(found)} columns" if found else "there is no column"
        wrong = f"there is no column {named}" if named else f"{several} of type {kind}"
        types = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in rows.features.items())
        raise InputError(f"{advice} to one of the columns, {types}; {wrong}.")
    return str(found[0])


def columns_of_type(rows: Any, kind: str) -> list[str]:
    """Names of the columns of a type of ``datasets``."""
    return [name for name, feature in rows.features.items() if type(feature).__name__ == kind]


def read_column(rows: Any, column: str) -> Any:
    """A ``pyarrow.Table`` of one column, not decoded, not copied."""
    return rows.select_columns([column]).with_format("arrow")[:]


def class_labels(rows: Any, column: str, of: str) -> Int64[Tensor, " N"]:
    """A column of type ``ClassLabel``. Raises :class:`InputError` if a row has no label, or −1, which means none."""
    values = read_column(rows, column).column(column).to_pylist()
    labels = torch.tensor([-1 if label is None else label for label in values], dtype=torch.int64)
    if len(labels) and labels.min() < 0:
        raise InputError(
            f"{of}: row {int(labels.argmin())} has no label in the column {column}: set labels to false, or choose "
            "another split."
        )
    return labels
