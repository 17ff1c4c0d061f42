"""DICOM images as 8-bit images or as numbers, by pydicom."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

PREAMBLE = 128  # bytes before the signature


def start_of(source: str | BytesIO) -> bytes:
    """The first bytes of a file, which show its format. Raises ``OSError`` if it cannot be read."""
    if isinstance(source, BytesIO):
        return source.getvalue()[: PREAMBLE + 4]
    with open(source, "rb") as file:
        return file.read(PREAMBLE + 4)


def is_dicom(start: bytes) -> bool:
    """Whether a file has DICOM's signature."""
    return start[PREAMBLE:] == b"DICM"


def read_values(source: str | BytesIO) -> Any:
    """The numbers ``[H, W]`` of a DICOM file's first frame after its rescaling, such as in Hounsfield units.

    Raises:
        ImportError: pydicom is not installed.
    """
    from pydicom import dcmread  # optional
    from pydicom.pixels import apply_modality_lut, pixel_array

    file = dcmread(source)
    return apply_modality_lut(pixel_array(file, index=0), file)


def read_dicom(source: str | BytesIO) -> Image.Image:
    """The first frame of a DICOM file, as a viewer shows it first.

    Grayscale is mapped by the file's rescaling and its first window, if it has them; then its smallest value becomes 0
    and its largest 255, or the reverse for MONOCHROME1.

    Raises:
        ImportError: pydicom is not installed.
    """
    from pydicom import dcmread  # optional
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    if isinstance(source, BytesIO):
        source.seek(0)
    file = dcmread(source)
    pixels = pixel_array(file, index=0)  # YCbCr is converted to RGB
    if file.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, file)
    if pixels.ndim == 3:
        return Image.fromarray(np.rint(pixels * (255 / np.iinfo(pixels.dtype).max)).astype(np.uint8))
    values = apply_voi_lut(apply_modality_lut(pixels, file), file).astype(np.float64)
    low, high = values.min(), values.max()
    grey = (values - low) / max(high - low, 1e-12)
    if file.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return Image.fromarray(np.rint(255 * grey).astype(np.uint8))
