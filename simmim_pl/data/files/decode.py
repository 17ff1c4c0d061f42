"""Decode image files of any mode to RGB of one size, one at a time, a batch, or a whole split in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.contracts import InputError

CHUNK = 256  # images a thread decodes at a time
# What Pillow reads by itself; of the others some start programs, as EPS does Ghostscript. TGA, whose files begin with
# no mark, is tried last.
FORMATS = [
    *("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "DIB", "PPM"),
    *("JPEG2000", "QOI", "SGI", "PCX", "DDS", "PSD", "ICO", "TGA"),
]


def decode_all(files: list[str], size: int) -> UInt8[Tensor, "N 3 S S"]:
    """Decode a split in threads."""
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def fill(rows: slice) -> None:
        images[rows] = stack(files[rows], size)

    in_threads(fill, len(files))
    return images


def unreadable(files: list[str], size: int) -> list[int]:
    """Positions of the files that :func:`decode` refuses; all are tried, in threads.

    Raises:
        InputError: a file cannot be read for a reason that is not its own: no permission, a disk that does not answer.
    """
    bad: list[int] = []

    def attempt(rows: slice) -> None:
        for position in range(rows.start, rows.stop):
            try:
                decode(files[position], size)
            except InputError as error:
                cause = error.__cause__
                if isinstance(cause, MemoryError) or getattr(cause, "errno", None) is not None:
                    raise
                bad.append(position)

    in_threads(attempt, len(files))
    return sorted(bad)


def in_threads(fill: Callable[[slice], None], number: int) -> None:
    """Call ``fill`` on all rows, a chunk at a time, under a progress bar: Pillow works outside Python's lock."""

    def count(start: int) -> int:
        rows = slice(start, min(start + CHUNK, number))
        fill(rows)
        return rows.stop - rows.start

    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(desc="decoding images", total=number) as bar:
        for done in pool.map(count, range(0, number, CHUNK)):
            bar.update(done)


def stack(files: Sequence[str], size: int) -> UInt8[Tensor, "B 3 S S"]:
    """Decode a few images."""
    batch = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for row, file in zip(batch, files, strict=True):
        row[:] = np.asarray(decode(file, size))
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def decode(file: str, size: int) -> Image.Image:
    """Read an image of any mode as RGB, its shorter side resized to ``size`` (bicubic), its centre cropped.

    Transparency is laid on white. 16-bit and integer grayscale is scaled from 0…65535 to 0…255, float
    grayscale from the smallest of 1, 255 and 65535 that holds it. Of an animation the first frame is read.
    EXIF orientation is not applied, as in torchvision's ImageFolder. A large JPEG is decoded at a reduced
    scale that is still at least twice ``size``, which is several times faster.

    Raises:
        InputError: the file is none of :data:`FORMATS`, is damaged, or is grayscale outside the ranges above.
    """
    try:
        with open_image(file) as image:
            image.draft(None, (2 * size, 2 * size))
            return fit(rgb(image), size)
    except Exception as error:  # Pillow's decoders raise whatever they stumble on: OSError, SyntaxError, struct.error
        unknown = f"its format is none of {', '.join(formats())}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{file} cannot be read as an image ({reason}): replace it or remove it.") from error


def open_image(file: str) -> Image.Image:
    """An image file of one of :data:`FORMATS`, whatever its name ends with; the pixels are read later."""
    return Image.open(file, formats=formats())


@cache
def formats() -> list[str]:
    """Those of :data:`FORMATS` that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def endings() -> set[str]:
    """Of the names of such files, in lower case, with the dot."""
    return {ending for ending, name in Image.registered_extensions().items() if name in formats()}


def fit(image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The shorter side resized to ``size``, the centre cropped."""
    return ImageOps.fit(image, (size, size), resampling)


def rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; see :func:`decode`. Raises ``ValueError`` for grayscale of unknown range."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64)
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        scale = next((top for top in ranges if grey.min() >= 0 and grey.max() <= top), None)
        if scale is None:
            raise ValueError(f"grayscale from {grey.min():g} to {grey.max():g}, of unknown range")
        return Image.fromarray(np.rint(grey * (255 / scale)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
