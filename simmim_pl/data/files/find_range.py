"""The range of the numbers that a set's files hold, where it is not stated."""

from __future__ import annotations

from simmim_pl.contracts import InputError
from simmim_pl.data.files.bands import read_bands
from simmim_pl.data.files.decode import errors_of, for_each_chunk
from simmim_pl.data.files.encoded import EncodedImages


def find_range(encoded: EncodedImages, channels: int) -> tuple[float, float] | None:
    """The least and the greatest number of all images, which are read once; ``None`` if the first has 8 bits.

    Raises:
        InputError: an image cannot be read; some have 8 bits and others more; or all numbers are the same.
    """
    if is_8_bit(encoded[0], channels):
        return None
    ends: list[float] = []

    def scan(rows: slice) -> None:
        for file in encoded[rows]:
            with errors_of(file):
                bands = read_bands(file, channels)
                if bands.dtype.itemsize == 1:
                    raise ValueError("it has 8 bits and others have more: set the source's range")
                ends.extend((float(bands.min()), float(bands.max())))

    for_each_chunk(scan, len(encoded))
    low, high = min(ends), max(ends)
    if low == high:
        raise InputError(f"All pixels of all images are {low:g}: set the source's range, or give other images.")
    return low, high


def is_8_bit(file: object, channels: int) -> bool:
    """Whether an image has 8 bits. Raises :class:`InputError` if it cannot be read."""
    with errors_of(file):  # type: ignore[arg-type]
        return bool(read_bands(file, channels).dtype.itemsize == 1)  # type: ignore[arg-type]
    raise AssertionError
