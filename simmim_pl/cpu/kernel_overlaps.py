"""Which parts of a convolution kernel overlap the input, and at which output positions, along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor


def output_size(x: Tensor, kernel: Sequence[Any], stride: Sequence[int], padding: Sequence[int]) -> tuple[Any, Any]:
    """Height and width of the output: integers, or torch.compile's symbolic ones.

    >>> import torch
    >>> output_size(torch.empty(1, 3, 8, 7), (3, 3), (2, 1), (1, 0))
    (4, 5)
    """
    sides = zip(x.shape[2:], kernel, stride, padding, strict=True)
    down, across = ((side + 2 * pad - taps) // step + 1 for side, taps, step, pad in sides)
    return down, across


def kernel_overlaps(side: int, taps: int, step: int, pad: int) -> Iterator[tuple[slice, slice, int]]:
    """Along one axis: ranges of output positions at which the same part of the kernel overlaps the input.

    Args:
        side: positions of the input.
        taps: size of the kernel.
        step: stride.
        pad: padding on each side.

    Yields:
        The output positions, that part of the kernel, and the first input position under it.

    >>> [(outputs.stop - outputs.start, part, first) for outputs, part, first in kernel_overlaps(4, 3, step=1, pad=1)]
    [(1, slice(1, 3, None), 0), (2, slice(0, 3, None), 0), (1, slice(0, 2, None), 2)]
    """

    def overlap(output: int) -> tuple[int, int]:
        start = output * step - pad
        return max(0, -start), min(taps, side - start)

    for part, outputs in groupby(range((side + 2 * pad - taps) // step + 1), overlap):
        first, *others = outputs
        yield slice(first, first + 1 + len(others)), slice(*part), max(0, first * step - pad)


def tap_overlaps(side: int, outputs: int, taps: int, step: int, pad: int) -> Iterator[tuple[slice, slice]]:
    """Along one axis, for each position in the kernel: the outputs for which it overlaps the input, and those inputs.

    Args:
        side: positions of the input.
        outputs: positions of the output.
        taps: size of the kernel.
        step: stride.
        pad: padding on each side.

    >>> list(tap_overlaps(side=4, outputs=4, taps=3, step=1, pad=1))
    [(slice(1, 4, None), slice(0, 3, 1)), (slice(0, 4, None), slice(0, 4, 1)), (slice(0, 3, None), slice(1, 4, 1))]
    """
    for tap in range(taps):
        first = max(0, -((tap - pad) // step))
        end = max(first, min(outputs, (side - 1 - tap + pad) // step + 1))
        start = first * step - pad + tap
        yield slice(first, end), slice(start, start + (end - first) * step, step)
