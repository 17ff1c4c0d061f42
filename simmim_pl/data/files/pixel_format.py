"""What image files are decoded to: 8-bit RGB, or any number of channels whose range is stated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.pixels import WHITE


@dataclass(frozen=True)
class PixelFormat:
    """Pixels of a data set.

    Attributes:
        channels: ``rgb``: whatever a file holds is converted to 8-bit RGB. A number: the file's own numbers, of as many
            channels.
        range: the numbers that become 0 and 1, those beyond are clipped: pixels are uint16, in 65,536 levels. ``None``:
            files have 8 bits, and so have pixels.

    Raises:
        InputError: a range is not ascending, or given for RGB.
    """

    channels: int | Literal["rgb"] = "rgb"
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.range and self.channels == "rgb":
            raise InputError(
                "A range is of the numbers in the files, and with channels rgb these are converted to 8 bits: set "
                "channels to their number, 1 for grey."
            )
        if self.range and not self.range[0] < self.range[1]:
            raise InputError(f"range has to be a lower and a higher number, and is {list(self.range)}.")

    @property
    def number(self) -> int:
        """Of channels."""
        return 3 if self.channels == "rgb" else self.channels

    @property
    def dtype(self) -> torch.dtype:
        """Of pixels."""
        return torch.uint8 if self.range is None else torch.uint16

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others in the key of a cache; nothing for RGB."""
        return () if self.channels == "rgb" else (self.channels, self.range)

    def bytes(self, size: int) -> int:
        """Of an image of this side."""
        return self.number * size**2 * self.dtype.itemsize

    def pixels(self, numbers: Any) -> Any:
        """Pixels of the numbers in a file, an array; see :func:`quantized`."""
        if self.range is None:
            return numbers
        return quantized(numbers, *self.range)


RGB = PixelFormat()


def quantized(numbers: Any, low: float, high: float) -> Any:
    """Numbers of an array as uint16, where ``low`` and less are 0, ``high`` and more 65535.

    >>> quantized(np.array([-5.0, 0, 1000, 4000]), 0, 4000)
    array([    0,     0, 16384, 65535], dtype=uint16)
    """
    unit = (numbers.astype(np.float64) - low) / (high - low)
    return np.rint(unit.clip(0, 1) * WHITE[torch.uint16]).astype(np.uint16)
