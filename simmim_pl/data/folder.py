"""Any folder of images, labelled or not: decoded once into memory, or in workers when too large for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.data.source import ImageSet, InMemory, Source, Split
from simmim_pl.records import InputError

CHUNK = 256  # images a thread decodes at a time
LAYOUTS = (
    "for labels, sort the images into train/CLASS/ and test/CLASS/, at least two classes; "
    "to train without labels, put them into train/ or directly into the folder."
)


class Folder(Source):
    """Images on disk: ``train/<class>/*`` and ``test/<class>/*``, or without labels ``train/*``, or ``*``.

    Class folders are read recursively; names are sorted, so labels and order are the same everywhere; hidden
    files are ignored. Without labels there is no test split. ``classes`` is known after ``load``. How a file
    becomes RGB is said in :func:`decode`.

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
        _, classes = _train(self.root)
        if classes:
            _labelled(self.root, "train")
            if (self.root / "test").is_dir():
                _labelled(self.root, "test")

    def load(self, split: Split) -> ImageSet:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; the split does not exist; an
                image cannot be read (when the split fits into memory, else when its batch is read).
        """
        files, self.classes = _train(self.root)
        labels = None
        if not files:
            files, labels = _labelled(self.root, split)
        elif split == "test":
            raise InputError(f"{self.root} holds images without labels, so it has no test split: {LAYOUTS}")
        if len(files) * 3 * self.size**2 > self.memory_gb * 1e9:
            return _OnDisk(files, self.size, labels)
        return InMemory(_decode_all(files, self.size), labels)


class _OnDisk(ImageSet):
    """A split that is decoded when it is read."""

    def __init__(self, files: list[str], size: int, labels: Int64[Tensor, " N"] | None) -> None:
        super().__init__(labels, workers=True)
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        return _stack([self.files[i] for i in index.tolist()], self.size)


def _train(root: Path) -> tuple[list[str], list[str]]:
    """The unlabelled training images, or else the names of the classes: one of the two is empty."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give Folder's root the folder of your images.")
    folder = root / "train" if (root / "train").is_dir() else root
    loose, names = _images(folder, deep=False), _subfolders(folder)
    nested = [name for name in names if _images(folder / name)]
    if loose and nested:
        raise InputError(f"{folder} holds images beside a folder of images, {nested[0]}: {LAYOUTS}")
    if loose:
        return loose, []
    if not nested:
        raise InputError(f"{folder} holds no images: {LAYOUTS}")
    if folder == root:
        raise InputError(f"{folder} holds folders of images, but no folder named train: {LAYOUTS}")
    if len(names) == 1:
        raise InputError(
            f"{folder} holds a single class, {names[0]}, which is nothing to tell apart: {LAYOUTS}"
        )
    return [], names


def _labelled(root: Path, split: Split) -> tuple[list[str], Int64[Tensor, " N"]]:
    """Files of a labelled split and their labels, class by class."""
    classes, folder = _subfolders(root / "train"), root / split
    if not folder.is_dir():
        raise InputError(f"{root} has no {split} split, a folder named {split}: {LAYOUTS}")
    odd = [name for name in _subfolders(folder) if name not in classes]
    if odd:
        raise InputError(f"{folder / odd[0]} is no class of {root / 'train'}: rename it, or remove it.")
    loose = _images(folder, deep=False)
    if loose:
        raise InputError(f"{loose[0]} lies beside the class folders, so it has no label: {LAYOUTS}")
    files = [_images(folder / name) for name in classes]
    if split == "train" and not all(files):
        empty = classes[[len(images) for images in files].index(0)]
        raise InputError(f"{folder / empty} is a class without images: put images there, or remove it.")
    if not any(files):
        raise InputError(f"{folder} holds no images: {LAYOUTS}")
    counts = torch.tensor([len(images) for images in files])
    return [file for images in files for file in images], torch.arange(len(classes)).repeat_interleave(counts)


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, hidden ones left out."""
    return sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))


def _images(folder: Path, deep: bool = True) -> list[str]:
    """Images in ``folder``, and below it when ``deep``, by their extension: sorted, hidden ones left out."""
    Image.preinit()  # puts the common formats first among those a file is tried for
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Editing the list in place is how os.walk is told where not to go.
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        found += [Path(parent, n) for n in names if n[0] != "." and os.path.splitext(n)[1].lower() in endings]
    return [str(path) for path in sorted(found)]


def _decode_all(files: list[str], size: int) -> UInt8[Tensor, "N 3 S S"]:
    """Decode a split in threads: Pillow works outside Python's lock."""
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def fill(start: int) -> int:
        chunk = files[start : start + CHUNK]
        images[start : start + CHUNK] = _stack(chunk, size)
        return len(chunk)

    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(desc="decoding images", total=len(files)) as bar:
        for count in pool.map(fill, range(0, len(files), CHUNK)):
            bar.update(count)
    return images


def _stack(files: Sequence[str], size: int) -> UInt8[Tensor, "B 3 S S"]:
    """Decode a few images."""
    batch = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for row, file in zip(batch, files, strict=True):
        row[:] = np.asarray(decode(file, size))
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def decode(file: str, size: int) -> Image.Image:
    """Read an image of any mode as RGB, its shorter side resized to ``size`` (bicubic), its centre cropped.

    Transparency is laid on white. 16-bit and integer greyscale is scaled from 0…65535 to 0…255, float
    greyscale from the smallest of 1, 255 and 65535 that holds it. Of an animation the first frame is read.
    EXIF orientation is not applied, as in torchvision's ImageFolder. A large JPEG is decoded at a reduced
    scale that is still at least twice ``size``, which is several times faster.

    Raises:
        InputError: the file is not an image, is damaged, or is greyscale outside the ranges above.
    """
    try:
        with Image.open(file) as image:
            image.draft(None, (2 * size, 2 * size))
            return ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BICUBIC)
    except (
        Exception
    ) as error:  # Pillow's decoders raise whatever they stumble on: OSError, SyntaxError, struct.error
        reason = "its format is not recognised" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{file} cannot be read as an image ({reason}): replace it or remove it.") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; see :func:`decode`. Raises ``ValueError`` for greyscale of unknown range."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64)
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        scale = next((top for top in ranges if grey.min() >= 0 and grey.max() <= top), None)
        if scale is None:
            raise ValueError(f"greyscale from {grey.min():g} to {grey.max():g}, of unknown range")
        return Image.fromarray(np.rint(grey * (255 / scale)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
