"""Oxford-IIIT Pet (Parkhi et al. 2012): breed labels, and masks (trimaps) of pet, background and border."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from simmim_pl.contracts import InputError
from simmim_pl.data.files.download import data_folder, ensure_extracted
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.data.sources.masks import decode_pairs
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged

SPLITS: dict[Split, str] = {"train": "trainval", "test": "test"}


class OxfordPets(Source):
    """Oxford-IIIT Pet: 3,680 training and 3,669 test photographs of 37 breeds, with a mask and a label each.

    ``classes``, the breeds, are known after ``load``.

    Args:
        root: folder of the data; by default the environment's SIMMIM_DATA_DIR, else ``data``.
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
        timeout: seconds without a byte after which a download is given up.
    """

    @ranged
    def __init__(self, root: str | None = None, size: PositiveInt = 64, timeout: PositiveFloat = 60) -> None:
        self.root, self.size, self.timeout = data_folder(root), size, timeout
        self.folder = self.root / "oxford-iiit-pet"  # torchvision's name
        self.mask_classes = ["pet", "background", "border"]  # ids 1, 2 and 3 in the files

    def prepare(self) -> None:
        """Download and extract missing files.

        Raises:
            InputError: they cannot be downloaded, or the folder cannot be written.
        """
        for url, md5 in datasets.OxfordIIITPet._RESOURCES:
            archive = self.folder / Path(url).name
            part = self.folder / archive.name.split(".")[0]  # the images, or the annotations
            extract = partial(extract_part, archive, part)
            ensure_extracted(archive, md5, [url], self.timeout, extract, part.is_dir, "2 GB")

    def load(self, split: Split) -> InMemory:
        """Decode one split. Raises :class:`InputError` if files are missing or cannot be read."""
        pets = self.open_split(split)
        images, masks = [str(file) for file in pets._images], [str(file) for file in pets._segs]
        self.classes = list(pets.classes)
        pixels, ids = decode_pairs(images, masks, self.size, len(self.mask_classes), first=1)
        return InMemory(pixels, torch.tensor(pets._labels, dtype=torch.int64), ids)

    def open_split(self, split: Split) -> Any:
        """torchvision's data set of a split. Raises :class:`InputError` unless all its files exist."""
        try:
            pets = datasets.OxfordIIITPet(self.root, SPLITS[split], ["category", "segmentation"])
            complete = len(pets) > 0 and all(file.exists() for file in [*pets._images, *pets._segs])
        except (RuntimeError, OSError, ValueError) as error:  # torchvision's errors for missing or changed files
            raise self.incomplete_error() from error
        if not complete:
            raise self.incomplete_error()
        return pets

    def incomplete_error(self) -> InputError:
        """The error for a folder with missing files."""
        return InputError(
            f"{self.folder} is missing or incomplete: remove its folders images and annotations, and call prepare() "
            "again."
        )


def extract_part(archive: Path, part: Path, scratch: Path) -> None:
    """Extract the archive in ``scratch``, then move its folder into place in one step."""
    extract_archive(str(archive), str(scratch))
    os.replace(scratch / part.name, part)
