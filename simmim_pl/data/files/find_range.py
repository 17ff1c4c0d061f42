"""The range of the numbers that a set's files hold, where it is not stated."""

from __future__ import annotations

from typing import Any

import numpy as np

from simmim_pl.contracts import InputError
from simmim_pl.data.files.bands import read_bands
from simmim_pl.data.files.decode import errors_of, for_each_chunk
from simmim_pl.data.files.encoded import Encoded, EncodedImages


def find_range(encoded: EncodedImages, channels: int) -> tuple[float, float] | None:
    """The least and the greatest number of all images, which are read once; ``None`` if the first has 8 bits.

    Raises:
        InputError: an image cannot be read; some have 8 bits and others more; or all numbers are the same.
    """
    if numbers(encoded[0], channels).dtype == np.uint8:
        return None
    ends: list[float] = []

    def scan(rows: slice) -> None:
        for file in encoded[rows]:
            bands = numbers(file, channels)
            if bands.dtype == np.uint8:
                raise InputError(f"{file} has 8 bits and other images have more: set the source's range.")
            ends.extend((float(bands.min()), float(bands.max())))

    for_each_chunk(scan, len(encoded))
    low, high = min(ends), max(ends)
    if low == high:
        raise InputError(f"All pixels of all images are {low:g}: set the source's range, or give other images.")
    return low, high


def numbers(file: Encoded, channels: int) -> Any:
    """:func:`simmim_pl.data.files.bands.read_bands`. Raises :class:`InputError`, which names the file."""
    with errors_of(file):
        found = read_bands(file, channels)
    return found
