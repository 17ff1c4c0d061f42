"""Decode image files to pixels of one size: a single file, a batch, or a whole split in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.contracts import InputError
from simmim_pl.data.files.bands import read_bands
from simmim_pl.data.files.encoded import Encoded, EncodedImages
from simmim_pl.data.files.formats import missing_package, open_image, supported_formats
from simmim_pl.data.files.huge import bounded
from simmim_pl.data.files.pixel_format import RGB, PixelFormat
from simmim_pl.data.files.rgb import to_rgb

CHUNK = 256  # images per task of a thread


def decode_all(files: Sequence[Encoded] | EncodedImages, size: int, form: PixelFormat = RGB) -> UInt[Tensor, "N C S S"]:
    """Decode all files in threads, with a progress bar. Raises :class:`InputError` as :func:`decode`."""
    images = torch.empty(len(files), form.number, size, size, dtype=form.dtype)

    def fill(rows: slice) -> None:
        images[rows] = decode_batch(files[rows], size, form)

    for_each_chunk(fill, len(files))
    return images


def find_unreadable(files: Sequence[Encoded] | EncodedImages, size: int, form: PixelFormat = RGB) -> list[int]:
    """Positions of the files that cannot be decoded. Decodes all of them, in threads.

    Raises:
        InputError: a file cannot be read for another reason than its content: permissions, a failing disk, a package
            that is not installed.
    """
    bad: list[int] = []

    def attempt(rows: slice) -> None:
        for position, file in enumerate(files[rows], rows.start):
            try:
                pixels_of(file, size, form)
            except InputError as error:
                cause = error.__cause__
                if isinstance(cause, MemoryError | ImportError) or getattr(cause, "errno", None) is not None:
                    raise
                bad.append(position)

    for_each_chunk(attempt, len(files))
    return sorted(bad)


def for_each_chunk(fill: Callable[[slice], None], number: int) -> None:
    """Call ``fill`` on chunks of ``range(number)`` in threads, with a progress bar. Pillow releases the GIL."""

    def count(start: int) -> int:
        rows = slice(start, min(start + CHUNK, number))
        fill(rows)
        return rows.stop - rows.start

    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(desc="decoding images", total=number) as bar:
        for done in pool.map(count, range(0, number, CHUNK)):
            bar.update(done)


def decode_batch(files: Sequence[Encoded], size: int, form: PixelFormat = RGB) -> UInt[Tensor, "B C S S"]:
    """Decode some files to one tensor. Raises :class:`InputError` as :func:`decode`."""
    batch = torch.empty(len(files), form.number, size, size, dtype=form.dtype)
    for row, file in zip(batch.numpy(), files, strict=True):
        row[:] = pixels_of(file, size, form)
    return batch


def pixels_of(file: Encoded, size: int, form: PixelFormat) -> Any:
    """Pixels of a file, ``[C, S, S]``: as :func:`decode`, or of its own numbers, resized before they are rounded."""
    if form.channels == "rgb":
        return np.asarray(decode(file, size)).transpose(2, 0, 1)
    with errors_of(file):
        bands = read_bands(file, form.channels, 2 * size)
        if form.range is None and bands.dtype != np.uint8:
            raise ValueError(f"its numbers are {bands.dtype}, those of others have 8 bits: set the source's range")
        whole = bands if bands.dtype == np.uint8 else bands.astype(np.float32)
        fitted = [np.asarray(resize_and_crop(Image.fromarray(band), size)) for band in whole]
        return form.pixels(np.stack(fitted))


def decode(file: Encoded, size: int) -> Image.Image:
    """Decode an image to RGB, resize its shorter side to ``size`` (bicubic) and crop the centre.

    Transparent pixels are composited on white. 16-bit and integer grayscale is scaled from 0…65535 to 0…255; float
    grayscale from 0…m, where m is the smallest of 1, 255 and 65535 that is not below the largest pixel. Of an animation
    the first frame is taken. EXIF orientation is ignored, as in torchvision's ImageFolder. A large JPEG is decoded at a
    reduced scale of at least twice ``size``, which is several times faster. DICOM files are mapped to 8 bits, see
    :func:`simmim_pl.data.files.dicom.read_dicom`.

    Args:
        file: path, or bytes.
        size: height and width of the result, in pixels.

    Raises:
        InputError: the file is none of :data:`simmim_pl.data.files.formats.FORMATS`, needs a package that is not
            installed, is damaged, or is grayscale outside these ranges.
    """
    with errors_of(file), open_image(file) as image:
        image.draft(None, (2 * size, 2 * size))
        with bounded(image.size, str(file)):
            return resize_and_crop(to_rgb(image), size)


@contextmanager
def errors_of(file: Encoded) -> Iterator[None]:
    """Raise :class:`InputError`, which names the file, for any error but that."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise many types: OSError, SyntaxError, struct.error, …
        require_package(str(file))
        unknown = f"its format is not one of {', '.join(supported_formats())}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise InputError(f"{file} cannot be read as an image ({reason}): replace it or remove it.") from error


def require_package(file: str) -> None:
    """Raise :class:`InputError` if a file's format needs a package that is not installed."""
    package = missing_package(file)
    if package:
        reason = ImportError(f"{package} is not installed")
        raise InputError(f"{file} is read by {package}: pip install 'simmim_pl[formats]', or remove it.") from reason


def resize_and_crop(
    image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize the shorter side to ``size`` pixels and crop the centre."""
    return ImageOps.fit(image, (size, size), resampling)
