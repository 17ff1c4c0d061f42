"""The numbers that an image file holds, unconverted: 8, 16 or 32 bits or floats, of any number of channels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from PIL.TiffImagePlugin import SAMPLESPERPIXEL, TiffImageFile
from torchvision.io import decode_png

from simmim_pl.contracts import InputError
from simmim_pl.data.files.dicom import is_dicom, read_values, start_of
from simmim_pl.data.files.encoded import Encoded
from simmim_pl.data.files.formats import open_image
from simmim_pl.data.files.huge import bounded
from simmim_pl.data.files.rgb import to_rgb

NUMPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_bands(file: Encoded, channels: int, least: int = 0) -> Any:
    """The numbers of an image, an array ``[C, H, W]`` of the file's type.

    - 8-bit images of any mode become grey for one channel, and RGB for three.
    - TIFF: one page with C bands, or C pages, which are the channels; with one channel the first page.
    - ``.npy``: ``[H, W]``, ``[C, H, W]`` or ``[H, W, C]``: the axis as long as C is the channels', first before last.
    - DICOM: grey by the file's rescaling, such as to Hounsfield units, without a window.

    Args:
        file: path, or bytes.
        channels: C.
        least: side, in pixels, that a large JPEG may be reduced to while it is decoded; 0 for never.

    Raises:
        ValueError: it holds another number of channels, or a number that is not finite.
        Exception: of many types, where it cannot be read.
    """
    found = arranged(*numbers_of(file, channels, least), channels)
    if found.dtype.kind not in "buif":
        raise ValueError(f"its numbers are {found.dtype}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("it holds numbers that are not finite")
    return found.astype(np.uint8) if found.dtype == bool else found


def numbers_of(file: Encoded, channels: int, least: int) -> tuple[Any, str]:
    """An array, and what its axes are: ``CHW``, or ``any`` where their order is to be found."""
    source = file if isinstance(file, str) else BytesIO(file.content)
    start = start_of(source)
    if start.startswith(NUMPY):
        return np.load(source, allow_pickle=False), "any"
    if is_dicom(start) and channels == 1:
        return read_values(source)[None], "CHW"
    try:
        with open_image(file) as image:
            if least:
                image.draft(None, (least, least))
            with bounded(image.size, str(file)):
                if not is_reduced(image):
                    return bands_of(image, channels), "CHW"
                if image.format == "PNG":
                    content = Path(source).read_bytes() if isinstance(source, str) else source.getvalue()
                    return decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8)).numpy(), "CHW"
    except UnidentifiedImageError:  # such as a TIFF of five bands
        if not start.startswith(TIFF):
            raise
    return read_tiff(file, source), "any"


def read_tiff(file: Encoded, source: str | BytesIO) -> Any:
    """The first series of a TIFF file that Pillow does not read. Raises :class:`InputError` without tifffile."""
    try:
        from tifffile import TiffFile  # optional
    except ImportError as error:
        raise InputError(f"{file} is read by tifffile: pip install 'simmim_pl[formats]', or remove it.") from error
    with TiffFile(source) as tiff:
        series = tiff.series[0]
        with bounded(series.shape, str(file)):
            return series.asarray()


def is_reduced(image: Image.Image) -> bool:
    """Whether Pillow reads a part of it: 8 of 16 bits of a colour, or the first of several bands of floats."""
    if isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLESPERPIXEL, 1) != len(image.getbands()):
        return True
    return not is_deep(image) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def is_deep(image: Image.Image) -> bool:
    """Whether the mode is grey of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def bands_of(image: Image.Image, channels: int) -> Any:
    """The channels of an image of Pillow's. Raises ``ValueError`` if it has another number."""
    pages = getattr(image, "n_frames", 1)
    if channels == 1:
        return grey(image)[None]
    if pages == channels:
        return np.stack([grey(page) for page in ImageSequence.Iterator(image)])
    if len(image.getbands()) == channels:
        return np.asarray(image).transpose(2, 0, 1)
    if channels == 3 and not is_deep(image):
        return np.asarray(to_rgb(image)).transpose(2, 0, 1)
    raise ValueError(f"it has {len(image.getbands())} × {pages} bands × pages, and channels is {channels}")


def grey(image: Image.Image) -> Any:
    """One channel: its numbers if it is grey, else the luma of its colours."""
    return np.asarray(image if is_deep(image) or image.mode == "L" else to_rgb(image).convert("L"))


def arranged(numbers: Any, axes: str, channels: int) -> Any:
    """An array as ``[C, H, W]``. Raises ``ValueError`` unless it has so many channels."""
    if numbers.ndim == 2:
        numbers = numbers[None]
    elif axes == "any" and numbers.ndim == 3 and numbers.shape[0] != channels:
        numbers = np.moveaxis(numbers, -1, 0)
    if numbers.ndim != 3 or len(numbers) != channels or not numbers.size:
        raise ValueError(f"it is an array of {list(numbers.shape)}, and channels is {channels}")
    return numbers
