"""Images of hundreds of megapixels: opened, decoded one at a time, and refused beyond a bound."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from PIL import Image

from simmim_pl.contracts import InputError

# Pillow stores RGB in 4 bytes a pixel: 2 GB at the bound. A damaged or malicious file can claim any size.
MAX_MEGAPIXELS = 500
LARGE = 64  # megapixels, from which on a process decodes one image at a time

LOCK = threading.RLock()


@contextmanager
def unlimited() -> Iterator[None]:
    """Without Pillow's limit, 179 megapixels, which is the whole process's: one thread at a time."""
    with LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def bounded(size: tuple[int, ...], name: str) -> Iterator[None]:
    """Within it, an image of this width and height is decoded, of several channels or pages one below the other.

    Raises:
        InputError: it has more than ``MAX_MEGAPIXELS``.
    """
    megapixels = math.prod(size) / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise InputError(
            f"{name} cannot be read as an image of {megapixels:,.0f} megapixels, and at most {MAX_MEGAPIXELS} are "
            "decoded: reduce it, cut it into tiles, or remove it."
        )
    with unlimited() if megapixels > LARGE else nullcontext():
        yield
