"""Oxford-IIIT Pet (Parkhi et al. 2012): breeds, and trimaps of pet, background and the border between them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from simmim_pl.contracts import InputError
from simmim_pl.data.files.download import data_folder, provide
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
        self.mask_classes = ["pet", "background", "border"]  # ids 1, 2 and 3 of the trimaps

    def prepare(self) -> None:
        """Download and extract what is missing.

        Raises:
            InputError: it cannot be downloaded, or the folder cannot be written.
        """
        for url, md5 in datasets.OxfordIIITPet._RESOURCES:
            archive = self.folder / Path(url).name
            part = self.folder / archive.name.split(".")[0]  # the images, or the annotations
            install = partial(unpack, archive, part)
            provide(archive, md5, [url], self.timeout, install, part.is_dir, "2 GB")

    def load(self, split: Split) -> InMemory:
        """Decode one split. Raises :class:`InputError` when files are missing or cannot be read."""
        pets = self.open(split)
        images, masks = [str(file) for file in pets._images], [str(file) for file in pets._segs]
        self.classes = list(pets.classes)
        pixels, ids = decode_pairs(images, masks, self.size, len(self.mask_classes), first=1)
        return InMemory(pixels, torch.tensor(pets._labels, dtype=torch.int64), ids)

    def open(self, split: Split) -> Any:
        """torchvision's list of a split's files and labels. Raises :class:`InputError` unless all files are there."""
        try:
            pets = datasets.OxfordIIITPet(self.root, SPLITS[split], ["category", "segmentation"])
            whole = len(pets) > 0 and all(file.exists() for file in [*pets._images, *pets._segs])
        except (RuntimeError, OSError, ValueError) as error:  # torchvision's word for missing or altered files
            raise self.incomplete() from error
        if not whole:
            raise self.incomplete()
        return pets

    def incomplete(self) -> InputError:
        """What is said of a folder that lacks files."""
        return InputError(
            f"{self.folder} is missing or incomplete: remove its folders images and annotations, and prepare() makes "
            "them anew."
        )


def unpack(archive: Path, part: Path, scratch: Path) -> None:
    """Extract aside, then move into place whole."""
    extract_archive(str(archive), str(scratch))
    os.replace(scratch / part.name, part)
