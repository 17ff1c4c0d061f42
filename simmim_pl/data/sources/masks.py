"""Images with segmentation masks: a folder of images beside a folder of masks of the same names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import fit, in_threads, open_image, stack
from simmim_pl.data.files.layout import images_in
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import PositiveInt, ranged

IGNORED = 255
LAYOUT = "put images into train/images and test/images, and masks of the same names into train/masks and test/masks."


class MaskFolder(Source):
    """Images and masks on disk: ``train/images/*``, ``train/masks/*``, ``test/images/*``, ``test/masks/*``.

    The mask of an image has its name, whatever the ending, and its size; it is an image of one channel, whose values
    (of a palette image the indices) are ids: 0 for the first class, 255 for what is ignored. Both are resized and
    cropped alike, the mask by nearest neighbour. Sets are decoded into memory, in every process.

    Args:
        root: the folder.
        classes: names of the ids, in order; they become ``mask_classes``. There are no labels of whole images.
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
    """

    @ranged
    def __init__(self, root: str, classes: list[str], size: PositiveInt = 32) -> None:
        if not 2 <= len(set(classes)) == len(classes) <= IGNORED:
            raise InputError(
                f"MaskFolder's classes are {len(classes)}: name from 2 to {IGNORED}, one for each id, no name twice."
            )
        self.root = Path(root).expanduser()
        self.size = size
        self.classes: list[str] = []
        self.mask_classes = classes

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def prepare(self) -> None:
        """Check that images and masks of both splits pair up; none is opened. Raises as ``load``."""
        pairs(self.root / "train")
        if (self.root / "test").is_dir():
            pairs(self.root / "test")

    def has_test(self) -> bool:
        """Whether there is a folder ``test``."""
        return (self.root / "test").is_dir()

    def load(self, split: Split) -> InMemory:
        """Decode one split.

        Raises:
            InputError: the split does not exist; an image or a mask has no partner or cannot be read; a mask has
                another size than its image, ids that no class has, or several channels.
        """
        images, masks = pairs(self.root / split)
        pixels, ids = decode_pairs(images, masks, self.size, len(self.mask_classes))
        return InMemory(pixels, None, ids)


def pairs(folder: Path) -> tuple[list[str], list[str]]:
    """The images of a split, sorted, and the mask of each. Raises :class:`InputError`."""
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        raise InputError(f"{folder} has to hold a folder named images and one named masks: {LAYOUT}")
    images, masks = by_stem(folder / "images"), by_stem(folder / "masks")
    if not images:
        raise InputError(f"{folder / 'images'} holds no images: {LAYOUT}")
    for have, want, word in ((images, masks, "mask"), (masks, images, "image")):
        alone = next((stem for stem in have if stem not in want), None)
        if alone is not None:
            raise InputError(
                f"{have[alone]} has no {word}: put one named {alone} into {folder / word}s, or remove the file."
            )
    return list(images.values()), [masks[stem] for stem in images]


def by_stem(folder: Path) -> dict[str, str]:
    """Files by name without ending. Raises :class:`InputError` for two of one name."""
    found: dict[str, str] = {}
    for file in images_in(folder, deep=False):
        other = found.setdefault(Path(file).stem, file)
        if other != file:
            raise InputError(f"{file} and {other} have the same name, so their pair is unclear: rename one.")
    return found


def decode_pairs(
    images: list[str], masks: list[str], size: int, classes: int, first: int = 0
) -> tuple[UInt8[Tensor, "N 3 S S"], UInt8[Tensor, "N S S"]]:
    """Decode images and their masks in threads; see :func:`decode_mask`."""
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    ids = torch.empty(len(images), size, size, dtype=torch.uint8)

    def fill(rows: slice) -> None:
        pixels[rows] = stack(images[rows], size)
        decoded = [decode_mask(*pair, size, classes, first) for pair in zip(masks[rows], images[rows], strict=True)]
        ids[rows] = torch.from_numpy(np.stack(decoded))

    in_threads(fill, len(images))
    return pixels, ids


def decode_mask(file: str, image: str, size: int, classes: int, first: int = 0) -> np.ndarray:
    """Ids ``uint8 [S, S]``: 0 … classes − 1, and 255 for what is ignored; the file's ids start at ``first``.

    Raises:
        InputError: the file cannot be read, has several channels, another size than ``image``, or other ids.
    """
    try:
        with open_image(image) as opened:
            wanted = opened.size
        with open_image(file) as mask:
            mode, ids = mask.mode, np.asarray(mask)
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise InputError(
            f"{file} cannot be read as the mask of {image} ({error}): replace it or remove both."
        ) from error
    if ids.ndim != 2 or ids.dtype.kind not in "bui":
        raise InputError(f"{file} is of mode {mode}, and a mask has one channel of whole ids: save it as mode L or P.")
    if ids.shape != wanted[::-1]:
        raise InputError(
            f"{file} has {ids.shape[1]}×{ids.shape[0]} pixels, and its image {image} has {wanted[0]}×{wanted[1]}: "
            "give them the same size."
        )
    ids = np.where(ids == IGNORED, IGNORED, ids.astype(np.int64) - first)
    unknown = ids[(ids != IGNORED) & ((ids < 0) | (ids >= classes))]
    if unknown.size:
        raise InputError(
            f"{file} holds the id {unknown[0] + first}, and the {classes} classes have {first} to "
            f"{first + classes - 1}: name every class, or set these pixels to {IGNORED}, which is ignored."
        )
    return np.asarray(fit(Image.fromarray(ids.astype(np.uint8)), size, Image.Resampling.NEAREST))
