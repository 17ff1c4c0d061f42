"""Images that a CSV or Parquet file lists, with a class and a split for each if it says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.encoded import NO_TEST, EncodedSource
from simmim_pl.data.files.encoded import ImagePaths
from simmim_pl.data.files.table import labels_of, read_table, require_two, sorted_classes, text_column, without_labels
from simmim_pl.data.files.tree import counted, shortened
from simmim_pl.data.source import ImageDataset, Split

# What a column of splits may hold, and which split it means.
SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


class FileList(EncodedSource):
    """Images that a table lists: one row for each, with its path and, if there are such columns, its class and split.

    Splits are ``train``, ``test`` and ``val`` (or ``valid``, ``validation``), which is the test split if there is
    no ``test``, and is left out otherwise: validation is held out of train. Without splits all images are train.
    Images are in the order of the rows, and classes are sorted. ``classes`` is known after ``load``.

    Args:
        file: a ``.csv``, ``.tsv`` or ``.parquet`` file; a text file has the names of the columns in its first line.
        root: folder of relative paths; by default that of ``file``.
        path_column: name of the column of paths.
        label_column: name of the column of classes, text or whole numbers.
        split_column: name of the column of splits.
        labels: whether images have labels; by default if there is a column ``label_column``.
        kwargs: how images are decoded, see :class:`simmim_pl.data.encoded.EncodedSource`.
    """

    def __init__(
        self,
        file: str,
        root: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
        labels: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file = Path(file).expanduser()
        self.root = self.file.parent if root is None else Path(root).expanduser()
        self.path_column, self.label_column, self.split_column = path_column, label_column, split_column
        self.labels = labels

    @property
    def name(self) -> str:
        """The file's name, without extension."""
        return self.file.stem

    def prepare(self) -> None:
        """Check the list, and that every file is there, without opening images. Prints what was found.

        Raises:
            InputError: as ``load``, or a file is missing.
        """
        splits = self.read()
        for split, (paths, _) in splits.items():
            missing = [path for path in paths if not os.path.isfile(path)]
            if missing:
                raise InputError(
                    f"{len(missing):,} of {len(paths):,} images of {split} in {self.file} are missing, such as "
                    f"{missing[0]}: correct the paths, or set root to the folder that they are relative to."
                )
        counts = ", ".join(f"{counted(len(paths), 'image')} of {split}" for split, (paths, _) in splits.items())
        kinds = (
            f"of {len(self.classes)} classes ({shortened(self.classes)})"
            if self.classes
            else without_labels(self.columns, self.labels)
        )
        rank_zero_info(f"{self.name}: {counts}, {kinds}.")
        every = [path for paths, _ in splits.values() for path in paths]
        if repeated := len(every) - len(set(every)):
            rank_zero_info(
                f"{self.name}: {counted(repeated, 'row')} with the path of another row, kept as more images."
            )

    def has_test(self) -> bool:
        """Whether any row is of the test split."""
        return "test" in self.read()

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: the file cannot be read, has no such column, or a row without a value; there is no such split;
                an image cannot be read (if the split fits into memory; otherwise the error comes with its batch).
        """
        splits = self.read()
        if split not in splits:
            raise InputError(f"{self.file} has no test split, rows of test or val in a column of splits: {NO_TEST}.")
        paths, labels = splits[split]
        return self.open(split, ImagePaths(paths), labels)

    def read(self) -> dict[str, tuple[list[str], Int64[Tensor, " N"] | None]]:
        """Paths and labels of each split. Sets ``classes``."""
        table = read_table(self.file, [self.path_column, self.label_column, self.split_column])
        paths = [os.path.join(self.root, path) for path in text_column(table, self.path_column, self.file, "path")]
        rows = self.rows(table)
        self.classes: list[str] = []
        self.columns = [name for name in table.column_names if name not in (self.path_column, self.split_column)]
        if not self.labelled(table):
            return {split: ([paths[at] for at in found], None) for split, found in rows.items()}
        names = text_column(table, self.label_column, self.file, "class")
        self.classes = require_two(sorted_classes([names[at] for at in rows["train"]]), self.file)
        return {
            split: ([paths[at] for at in found], labels_of([names[at] for at in found], self.classes, self.file))
            for split, found in rows.items()
        }

    def labelled(self, table: Any) -> bool:
        """Whether to read labels. A missing column is allowed if its name is the default."""
        if self.labels is None and self.label_column == "label":
            return "label" in table.column_names
        return self.labels is not False

    def rows(self, table: Any) -> dict[str, list[int]]:
        """Rows of train, and of test if any. Raises :class:`InputError` for another split, or without train."""
        if self.split_column == "split" and "split" not in table.column_names:
            return {"train": list(range(table.num_rows))}
        found: dict[str, list[int]] = {}
        for row, name in enumerate(text_column(table, self.split_column, self.file, "split")):
            split = SPLITS.get(name.lower())
            if split is None:
                raise InputError(
                    f"{self.file}: row {row + 1} is of the split {name}, and splits are {', '.join(SPLITS)}: rename it."
                )
            found.setdefault(split, []).append(row)
        if "train" not in found:
            raise InputError(f"{self.file} has no row of the split train: there is nothing to train on.")
        test = found.get("test", found.get("val"))
        return {"train": found["train"], **({"test": test} if test else {})}
