"""STL-10 (Coates et al. 2011): 100,000 unlabelled images, and 5,000 labelled training images in ten folds."""

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
from simmim_pl.data.files.download import data_folder, ensure_extracted
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import PositiveFloat, Range, ranged

SIDE = 96  # pixels
TorchvisionSTL10 = datasets.STL10  # defines file names, URL and checksum


class STL10(Source):
    """STL-10: 96×96 images of 10 classes; 5,000 labelled for training, 8,000 for test, and 100,000 without a label.

    Files are memory-mapped: images are read batch by batch, and processes share the pages. ``classes`` is known after
    ``load``, and is empty for the unlabelled images.

    Args:
        root: folder of the data; by default the environment's SIMMIM_DATA_DIR, else ``data``.
        train: what the training split holds: the ``unlabelled`` images, to pretrain on; or the ``labelled`` ones, to
            evaluate on.
        fold: use only the 1,000 labelled training images of this fold, 0 to 9. The paper's protocol trains on each
            fold and reports the mean of the ten test accuracies: ``simmim_pl.evaluation.LinearProbe(folds=True)``,
            without a fold here.
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
        self.folder = self.root / TorchvisionSTL10.base_folder

    @property
    def name(self) -> str:
        """``STL10``, with the fold if one is chosen."""
        return "STL10" if self.fold is None else f"STL10, fold {self.fold}"

    def prepare(self) -> None:
        """Download and extract missing files. Raises :class:`InputError` if that fails."""
        archive = self.root / TorchvisionSTL10.filename
        ensure_extracted(
            archive,
            TorchvisionSTL10.tgz_md5,
            [TorchvisionSTL10.url],
            self.timeout,
            self.extract,
            self.is_complete,
            "6 GB",
        )

    def load(self, split: Split) -> InMemory:
        """Memory-map one split: uint8 ``[N, 3, 96, 96]``. Raises :class:`InputError` if files are missing."""
        if not self.is_complete():
            raise InputError(f"{self.folder} is missing or incomplete: call prepare() to download it.")
        if split == "train" and self.train == "unlabelled":
            self.classes: list[str] = []
            return InMemory(self.images("unlabeled"), None)
        self.classes = (self.folder / TorchvisionSTL10.class_names_file).read_text().split()
        images, labels = self.images(split), self.labels(split)
        if split == "train" and self.fold is not None:
            rows = self.positions()[self.fold]
            images, labels = images[rows], labels[rows]
        return InMemory(images, labels)

    def images(self, part: str) -> UInt8[Tensor, "N 3 96 96"]:
        """The images of a file, which stores them column by column."""
        path = self.folder / f"{part}_X.bin"
        columns = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        return columns.view(-1, 3, SIDE, SIDE).mT

    def labels(self, part: str) -> Int64[Tensor, " N"]:
        """The labels of a file, which stores them from 1 to 10."""
        return torch.frombuffer(bytearray((self.folder / f"{part}_y.bin").read_bytes()), dtype=torch.uint8).long() - 1

    @property
    def folds(self) -> list[Int64[Tensor, " n"]]:
        """The ten folds, if the training split is all labelled images."""
        return self.positions() if self.train == "labelled" and self.fold is None else []

    def positions(self) -> list[Int64[Tensor, " n"]]:
        """Positions of each fold's images among the labelled ones; the file has one line per fold."""
        text: str = (self.folder / TorchvisionSTL10.folds_list_file).read_text()
        return [torch.tensor([int(row) for row in line.split()]) for line in text.splitlines()]

    def is_complete(self) -> bool:
        """Whether every extracted file exists with the right size; the checksum was verified on the archive."""
        bytes_of = {name: self.size(name) for name, _ in [*TorchvisionSTL10.train_list, *TorchvisionSTL10.test_list]}
        image = 3 * SIDE * SIDE
        paired = all(bytes_of[f"{part}_X.bin"] == image * bytes_of[f"{part}_y.bin"] > 0 for part in ("train", "test"))
        unlabelled = bytes_of["unlabeled_X.bin"]
        texts = all(
            (self.folder / name).is_file()
            for name in (TorchvisionSTL10.class_names_file, TorchvisionSTL10.folds_list_file)
        )
        return paired and unlabelled > 0 and unlabelled % image == 0 and texts

    def size(self, name: str) -> int:
        """Size of a file in bytes; 0 if it does not exist."""
        path: Path = self.folder / name
        return path.stat().st_size if path.is_file() else 0

    def extract(self, scratch: Path) -> None:
        """Extract the archive in ``scratch`` and move its files into place, each in one step."""
        extract_archive(str(self.root / TorchvisionSTL10.filename), str(scratch))
        self.folder.mkdir(exist_ok=True)
        for file in (scratch / TorchvisionSTL10.base_folder).iterdir():
            os.replace(file, self.folder / file.name)
