"""The formats of image files: which are read, by their content, and which package reads one that Pillow does not."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from simmim_pl.data.files.dicom import is_dicom, read_dicom, start_of
from simmim_pl.data.files.encoded import Encoded
from simmim_pl.data.files.huge import unlimited

#: Formats that Pillow decodes by itself; some others start programs (EPS starts Ghostscript). HEIF is pillow-heif's.
#: TGA comes last, because its files have no signature to recognise.
FORMATS = [
    *("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "DIB", "PPM"),
    *("JPEG2000", "QOI", "SGI", "PCX", "DDS", "PSD", "ICO", "HEIF", "TGA"),
]
#: Package that reads a format, by extension.
PACKAGES = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".dcm": "pydicom"}


def open_image(file: Encoded) -> Image.Image:
    """Open an image of one of :data:`FORMATS` or a DICOM file, recognised by content; pixels are decoded later."""
    source = file if isinstance(file, str) else BytesIO(file.content)

    def opened() -> Image.Image:
        return Image.open(source, formats=supported_formats())

    try:
        return opened()
    except Image.DecompressionBombError:
        with unlimited():  # pixels are decoded within bounds of our own
            return opened()
    except UnidentifiedImageError:
        if not is_dicom(start_of(source)):
            raise
        return read_dicom(source)


@cache
def supported_formats() -> list[str]:
    """Those of :data:`FORMATS` that this build of Pillow supports, with HEIF if pillow-heif is installed."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener  # optional

        register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def image_extensions(arrays: bool = False) -> set[str]:
    """File extensions of all formats, in lower case, with the dot; those of :data:`PACKAGES` installed or not.

    - ``arrays``: whether arrays, ``.npy``, are images.
    """
    supported = supported_formats()
    of_pillow = {ending for ending, name in Image.registered_extensions().items() if name in supported}
    return of_pillow | PACKAGES.keys() | ({".npy"} if arrays else set())


def missing_package(file: str) -> str | None:
    """The package that reads a file, by its extension, if it is not installed."""
    package = PACKAGES.get(os.path.splitext(file)[1].lower())
    return package if package and find_spec(package.replace("-", "_")) is None else None
