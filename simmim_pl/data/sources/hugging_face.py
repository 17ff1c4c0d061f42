"""Hugging Face data sets: of the hub, or files on disk, with images as bytes in a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.encoded import NO_TEST, EncodedSource
from simmim_pl.data.files.arrow import ArrowImages
from simmim_pl.data.files.rows import class_labels, image_column, label_column, open_rows, read_column
from simmim_pl.data.files.table import labels_of, require_two, sorted_classes, text_column, without_labels
from simmim_pl.data.files.tree import counted, shortened
from simmim_pl.data.source import ImageDataset, Split

TEST = ("test", "validation", "val", "valid")  # the first of these that a data set has is its test split


class HuggingFace(EncodedSource):
    """A data set that the package ``datasets`` opens: ``pip install 'simmim_pl[huggingface]'``.

    ``path`` is a folder that ``save_to_disk`` wrote; a Parquet or Arrow file, or a folder of them, which are converted
    once to memory-mapped files in the cache of ``datasets`` (HF_HOME); or a name on the hub, which is downloaded there.
    Nothing of the hub is run. Images are decoded and cached as those of :class:`simmim_pl.data.Folder`. ``classes`` is
    known after ``load``.

    Args:
        path: file, folder or name.
        subset: name of one of the data set's subsets (configurations), where it has several.
        revision: branch, tag or commit on the hub; by default the newest.
        image_column: by default the only column of type ``Image``.
        label_column: of type ``ClassLabel``, text or whole numbers; by default the only one of type ``ClassLabel``.
        labels: whether images have labels; by default if there is such a column.
        train_split: name of the split to train on.
        test_split: name of the test split; by default ``test``, else ``validation``.
        kwargs: how images are decoded, see :class:`simmim_pl.data.encoded.EncodedSource`.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        labels: bool | None = None,
        train_split: str = "train",
        test_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.subset, self.revision = path, subset, revision
        self.image_column, self.label_column, self.labels = image_column, label_column, labels
        self.train_split, self.test_split = train_split, test_split

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.path).name

    def prepare(self) -> None:
        """Download or convert the data set where it has to be, check the columns, and print what was found.

        Raises:
            InputError: as ``load``, but no image is decoded, and no label of test is read.
        """
        splits = self.splits()
        self.part(splits, "train")
        counts = ", ".join(f"{counted(len(rows), 'image')} of {split}" for split, rows in splits.items())
        kinds = (
            f"of {len(self.classes)} classes ({shortened(self.classes)})"
            if self.classes
            else without_labels(self.columns, self.labels)
        )
        rank_zero_info(f"{self.name}: {counts}, {kinds}.")

    def has_test(self) -> bool:
        """Whether the data set has a test split."""
        return "test" in self.splits()

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: ``datasets`` is not installed, or cannot open the data set; there is no such split or column; a
                row has no label; an image cannot be read (if the split fits into memory; otherwise the error comes
                with its batch).
        """
        splits = self.splits()
        if split not in splits:
            raise InputError(f"{self.path} has no test split: set test_split, or {NO_TEST}.")
        return self.open(split, *self.part(splits, split))

    def splits(self) -> dict[str, Any]:
        """The rows of train, and of test if there are any."""
        found = open_rows(self.path, self.subset, self.revision)
        for name in (self.train_split, self.test_split):
            if name is not None and name not in found:
                raise InputError(f"{self.path} has no split {name}: its splits are {', '.join(found)}.")
        if self.test_split == self.train_split:
            raise InputError(
                f"{self.test_split} is both train_split and test_split: test on other images, or {NO_TEST}."
            )
        test = self.test_split or next((name for name in TEST if name in found and name != self.train_split), None)
        return {"train": found[self.train_split], **({"test": found[test]} if test else {})}

    def part(self, splits: dict[str, Any], split: str) -> tuple[ArrowImages, Int64[Tensor, " N"] | None]:
        """Images and labels of a split. Sets ``classes``."""
        rows, of = splits[split], f"{self.path}, {split}"
        images = ArrowImages(rows, image_column(rows, self.image_column, of), of)
        column = label_column(splits["train"], self.label_column, self.labels, self.path)
        self.classes: list[str] = []
        self.columns = [name for name in rows.column_names if name != images.column]
        if column is None:
            return images, None
        if names := getattr(splits["train"].features[column], "names", None):  # a ClassLabel
            self.classes = list(names)
            return images, class_labels(rows, column, of)
        names, train = (text_column(read_column(each, column), column, of, "class") for each in (rows, splits["train"]))
        self.classes = require_two(sorted_classes(train), self.path)
        return images, labels_of(names, self.classes, self.path)
