"""Images with segmentation masks: a folder of images and a folder of masks of the same names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode_batch, for_each_chunk, resize_and_crop
from simmim_pl.data.files.formats import open_image
from simmim_pl.data.files.layout import list_images
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import PositiveInt, ranged

IGNORE_INDEX = 255  # id of pixels that loss and metrics ignore
LAYOUT = "put images into train/images and test/images, and masks of the same names into train/masks and test/masks."


class MaskFolder(Source):
    """Images and masks on disk: ``train/images/*``, ``train/masks/*``, ``test/images/*``, ``test/masks/*``.

    A mask has the name of its image, with any extension, and the same size. It has one channel whose values (in a
    palette image the indices) are class ids: 0 is the first class, 255 is ignored. Image and mask are resized and
    cropped alike, the mask by nearest neighbour. Splits are decoded into memory, in every process.

    Args:
        root: the folder.
        classes: names of the ids, in order; they become ``mask_classes``. Images have no labels.
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
    """

    @ranged
    def __init__(self, root: str, classes: list[str], size: PositiveInt = 32) -> None:
        if not 2 <= len(set(classes)) == len(classes) <= IGNORE_INDEX:
            raise InputError(
                f"MaskFolder has {len(classes)} classes: give 2 to {IGNORE_INDEX} different names, one for each id."
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
        """Check that every image of both splits has a mask, and every mask an image, without opening them.

        Raises:
            InputError: as ``load``.
        """
        list_pairs(self.root / "train")
        if (self.root / "test").is_dir():
            list_pairs(self.root / "test")

    def has_test(self) -> bool:
        """Whether the folder ``test`` exists."""
        return (self.root / "test").is_dir()

    def load(self, split: Split) -> InMemory:
        """Decode one split.

        Raises:
            InputError: the split does not exist; an image has no mask or a mask no image; a file cannot be read; a mask
                has another size than its image, unknown ids, or several channels.
        """
        images, masks = list_pairs(self.root / split)
        pixels, ids = decode_pairs(images, masks, self.size, len(self.mask_classes))
        return InMemory(pixels, None, ids)


def list_pairs(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the images of a split, sorted, and of their masks. Raises :class:`InputError` if one is unpaired."""
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        raise InputError(f"{folder} has to hold a folder named images and one named masks: {LAYOUT}")
    images, masks = files_by_stem(folder / "images"), files_by_stem(folder / "masks")
    if not images:
        raise InputError(f"{folder / 'images'} holds no images: {LAYOUT}")
    for have, want, word in ((images, masks, "mask"), (masks, images, "image")):
        alone = next((stem for stem in have if stem not in want), None)
        if alone is not None:
            raise InputError(
                f"{have[alone]} has no {word}: put one named {alone} into {folder / word}s, or remove the file."
            )
    return list(images.values()), [masks[stem] for stem in images]


def files_by_stem(folder: Path) -> dict[str, str]:
    """Image files by name without extension. Raises :class:`InputError` if two have the same name."""
    found: dict[str, str] = {}
    for file in list_images(folder, deep=False):
        other = found.setdefault(Path(file).stem, file)
        if other != file:
            raise InputError(f"{file} and {other} have the same name, so pairs are ambiguous: rename one.")
    return found


def decode_pairs(
    images: list[str], masks: list[str], size: int, classes: int, first: int = 0
) -> tuple[UInt8[Tensor, "N 3 S S"], UInt8[Tensor, "N S S"]]:
    """Decode images and their masks in threads, see :func:`decode_mask`."""
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    ids = torch.empty(len(images), size, size, dtype=torch.uint8)

    def fill(rows: slice) -> None:
        pixels[rows] = decode_batch(images[rows], size)
        decoded = [decode_mask(*pair, size, classes, first) for pair in zip(masks[rows], images[rows], strict=True)]
        ids[rows] = torch.from_numpy(np.stack(decoded))

    for_each_chunk(fill, len(images))
    return pixels, ids


def decode_mask(file: str, image: str, size: int, classes: int, first: int = 0) -> np.ndarray:
    """Decode a mask to class ids, resized and cropped like its image.

    Args:
        file: the mask.
        image: its image, whose size it must have.
        size: S, height and width of the result, in pixels.
        classes: number of classes C.
        first: id of the first class in the file.

    Returns:
        uint8 ``[S, S]``: 0 … C − 1, and 255 for ignored pixels.

    Raises:
        InputError: the file cannot be read, has several channels, another size than ``image``, or unknown ids.
    """
    try:
        with open_image(image) as opened:
            wanted = opened.size
        with open_image(file) as mask:
            mode, ids = mask.mode, np.asarray(mask)
    except Exception as error:  # Pillow's decoders raise many types
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
    ids = np.where(ids == IGNORE_INDEX, IGNORE_INDEX, ids.astype(np.int64) - first)
    unknown = ids[(ids != IGNORE_INDEX) & ((ids < 0) | (ids >= classes))]
    if unknown.size:
        raise InputError(
            f"{file} holds the id {unknown[0] + first}, and the {classes} classes have {first} to "
            f"{first + classes - 1}: name every class, or set these pixels to {IGNORE_INDEX}, which is ignored."
        )
    return np.asarray(resize_and_crop(Image.fromarray(ids.astype(np.uint8)), size, Image.Resampling.NEAREST))
