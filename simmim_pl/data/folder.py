"""Any folder of images, labelled or not: decoded once into memory, or in workers when too large for it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from simmim_pl.data.decode import decode_all, stack
from simmim_pl.data.source import ImageSet, InMemory, Source, Split
from simmim_pl.records import InputError

LAYOUTS = (
    "for labels, sort the images into train/CLASS/ and test/CLASS/, at least two classes; "
    "to train without labels, put them into train/ or directly into the folder."
)


class Folder(Source):
    """Images on disk: ``train/<class>/*`` and ``test/<class>/*``, or without labels ``train/*``, or ``*``.

    Class folders are read recursively; names are sorted, so labels and order are the same everywhere; hidden
    files are ignored. Without labels there is no test split. ``classes`` is known after ``load``. How a file
    becomes RGB is said in :func:`simmim_pl.data.decode.decode`.

    Args:
        root: the folder.
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
        memory_gb: a split of at most this many 10⁹ bytes as uint8 is decoded once into memory, in every
            process; a larger one is decoded batch by batch in the DataLoader's workers.
    """

    def __init__(self, root: str, size: int = 32, memory_gb: float = 4.0) -> None:
        if size < 1:
            raise InputError(f"Folder's size is {size}: give the images at least 1 pixel.")
        self.root = Path(root).expanduser()
        self.size = size
        self.memory_gb = memory_gb

    def prepare(self) -> None:
        """Check the layout of both splits; no image is opened. Raises :class:`InputError` as ``load``."""
        _, classes = train_layout(self.root)
        if classes:
            labelled(self.root, "train")
            if (self.root / "test").is_dir():
                labelled(self.root, "test")

    def load(self, split: Split) -> ImageSet:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; the split does not exist; an
                image cannot be read (when the split fits into memory, else when its batch is read).
        """
        files, self.classes = train_layout(self.root)
        labels = None
        if not files:
            files, labels = labelled(self.root, split)
        elif split == "test":
            raise InputError(f"{self.root} holds images without labels, so it has no test split: {LAYOUTS}")
        if len(files) * 3 * self.size**2 > self.memory_gb * 1e9:
            return OnDisk(files, self.size, labels)
        return InMemory(decode_all(files, self.size), labels)


class OnDisk(ImageSet):
    """A split that is decoded when it is read."""

    def __init__(self, files: list[str], size: int, labels: Int64[Tensor, " N"] | None) -> None:
        super().__init__(labels, workers=True)
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        return stack([self.files[i] for i in index.tolist()], self.size)


def train_layout(root: Path) -> tuple[list[str], list[str]]:
    """The unlabelled training images, or else the names of the classes: one of the two is empty."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give Folder's root the folder of your images.")
    folder = root / "train" if (root / "train").is_dir() else root
    loose, names = images_in(folder, deep=False), subfolders(folder)
    nested = [name for name in names if images_in(folder / name)]
    if loose and nested:
        raise InputError(f"{folder} holds images beside a folder of images, {nested[0]}: {LAYOUTS}")
    if loose:
        return loose, []
    if not nested:
        raise InputError(f"{folder} holds no images: {LAYOUTS}")
    if folder == root:
        raise InputError(f"{folder} holds folders of images, but no folder named train: {LAYOUTS}")
    if len(names) == 1:
        raise InputError(f"{folder} holds a single class, {names[0]}, which is nothing to tell apart: {LAYOUTS}")
    return [], names


def labelled(root: Path, split: Split) -> tuple[list[str], Int64[Tensor, " N"]]:
    """Files of a labelled split and their labels, class by class."""
    classes, folder = subfolders(root / "train"), root / split
    if not folder.is_dir():
        raise InputError(f"{root} has no {split} split, a folder named {split}: {LAYOUTS}")
    odd = [name for name in subfolders(folder) if name not in classes]
    if odd:
        raise InputError(f"{folder / odd[0]} is no class of {root / 'train'}: rename it, or remove it.")
    loose = images_in(folder, deep=False)
    if loose:
        raise InputError(f"{loose[0]} lies beside the class folders, so it has no label: {LAYOUTS}")
    files = [images_in(folder / name) for name in classes]
    if split == "train" and not all(files):
        empty = classes[[len(images) for images in files].index(0)]
        raise InputError(f"{folder / empty} is a class without images: put images there, or remove it.")
    if not any(files):
        raise InputError(f"{folder} holds no images: {LAYOUTS}")
    counts = torch.tensor([len(images) for images in files])
    return [file for images in files for file in images], torch.arange(len(classes)).repeat_interleave(counts)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, hidden ones left out."""
    return sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))


def images_in(folder: Path, deep: bool = True) -> list[str]:
    """Images in ``folder``, and below it when ``deep``, by their extension: sorted, hidden ones left out."""
    Image.preinit()  # puts the common formats first among those a file is tried for
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Editing the list in place is how os.walk is told where not to go.
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        found += [Path(parent, n) for n in names if n[0] != "." and os.path.splitext(n)[1].lower() in endings]
    return [str(path) for path in sorted(found)]
