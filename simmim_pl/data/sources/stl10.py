"""STL-10 (Coates et al. 2011): 100,000 unlabelled images, and few labelled ones in ten folds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from simmim_pl.contracts import InputError
from simmim_pl.data.files.download import data_folder, provide
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import PositiveFloat, Range, ranged

SIDE = 96
STL = datasets.STL10  # torchvision's class knows the names, the address and the checksum


class STL10(Source):
    """STL-10: 96×96 images of 10 classes; 5,000 labelled for training, 8,000 for test, and 100,000 without a label.

    Files are memory-mapped: an image is read when its batch is, and all processes share it. ``classes`` is known after
    ``load``, and is empty for the unlabelled images.

    Args:
        root: folder of the data; by default the environment's SIMMIM_DATA_DIR, else ``data``.
        train: what the training split holds: the ``unlabelled`` images, to pretrain on; or the ``labelled`` ones, to
            evaluate on.
        fold: of the labelled training images only the 1,000 of this fold, 0 to 9: the set's own protocol trains on
            each, and reports the mean of the ten accuracies on test.
        timeout: seconds without a byte after which a download is given up.
    """

    @ranged
    def __init__(
        self,
        root: str | None = None,
        train: Literal["unlabelled", "labelled"] = "labelled",
        fold: Annotated[int, Range("[0, 9]")] | None = None,
        timeout: PositiveFloat = 60,
    ) -> None:
        if fold is not None and train == "unlabelled":
            raise InputError(f"STL10's fold is {fold}: folds are of the labelled training images only.")
        self.root, self.train, self.fold, self.timeout = data_folder(root), train, fold, timeout
        self.folder = self.root / STL.base_folder

    @property
    def name(self) -> str:
        """The set, and which fold of it."""
        return "STL10" if self.fold is None else f"STL10, fold {self.fold}"

    def prepare(self) -> None:
        """Download and extract what is missing. Raises :class:`InputError` when that cannot be done."""
        archive = self.root / STL.filename
        provide(archive, STL.tgz_md5, [STL.url], self.timeout, self.extract, self.whole, "6 GB")

    def load(self, split: Split) -> InMemory:
        """Map one split: uint8 ``[N, 3, 96, 96]``. Raises :class:`InputError` when files are missing."""
        if not self.whole():
            raise InputError(f"{self.folder} is missing or incomplete: prepare() mends it.")
        if split == "train" and self.train == "unlabelled":
            self.classes: list[str] = []
            return InMemory(self.images("unlabeled"), None)
        self.classes = (self.folder / STL.class_names_file).read_text().split()
        images, labels = self.images(split), self.labels(split)
        if split == "train" and self.fold is not None:
            rows = torch.tensor([int(row) for row in self.lines()[self.fold].split()])
            images, labels = images[rows], labels[rows]
        return InMemory(images, labels)

    def images(self, part: str) -> UInt8[Tensor, "N 3 96 96"]:
        """The images of a file, which holds them column by column."""
        path = self.folder / f"{part}_X.bin"
        columns = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        return columns.view(-1, 3, SIDE, SIDE).mT

    def labels(self, part: str) -> Int64[Tensor, " N"]:
        """The labels of a file, which counts them from 1."""
        return torch.frombuffer(bytearray((self.folder / f"{part}_y.bin").read_bytes()), dtype=torch.uint8).long() - 1

    def lines(self) -> list[str]:
        """A line for each fold: the positions of its images."""
        text: str = (self.folder / STL.folds_list_file).read_text()
        return text.splitlines()

    def whole(self) -> bool:
        """Whether every file is there and as long as it has to be; the archive's checksum was right."""
        bytes_of = {name: self.size(name) for name, _ in [*STL.train_list, *STL.test_list]}
        image = 3 * SIDE * SIDE
        paired = all(bytes_of[f"{part}_X.bin"] == image * bytes_of[f"{part}_y.bin"] > 0 for part in ("train", "test"))
        unlabelled = bytes_of["unlabeled_X.bin"]
        texts = all((self.folder / name).is_file() for name in (STL.class_names_file, STL.folds_list_file))
        return paired and unlabelled > 0 and unlabelled % image == 0 and texts

    def size(self, name: str) -> int:
        """Bytes of a file; 0 when it is not there."""
        path: Path = self.folder / name
        return path.stat().st_size if path.is_file() else 0

    def extract(self, scratch: Path) -> None:
        """Unpack the archive in ``scratch`` and move its files into place one by one, each whole."""
        extract_archive(str(self.root / STL.filename), str(scratch))
        self.folder.mkdir(exist_ok=True)
        for file in (scratch / STL.base_folder).iterdir():
            os.replace(file, self.folder / file.name)
