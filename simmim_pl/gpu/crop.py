"""Crop, resize and mirror as Triton functions; compute the same as :mod:`simmim_pl.views.crop`."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from simmim_pl.gpu.parameters import FLIP


@triton.jit
@no_type_check
def crop(image, parameters, y, x, per_channel, per_line, per_pixel, SIZE: tl.constexpr):
    """Pixels of the view: means of the box's, weighted by triangles as :func:`simmim_pl.views.crop.resampling` does.

    Each output pixel gathers its taps through the cache. Resizing columns before rows would halve the reads at best,
    since every row of the box has to be resized, and would need memory for the intermediate result.
    """
    x = tl.where(tl.load(parameters + FLIP) > 0, SIZE - 1 - x, x)
    taps_y, first_y, centre_y, reach_y, start_y, end_y = taps(parameters, 0, y, SIZE)
    taps_x, first_x, centre_x, reach_x, start_x, end_x = taps(parameters, 1, x, SIZE)
    red = tl.zeros(x.shape, tl.float32)
    green, blue = red, red
    for i in range(0, taps_y):
        weight_y = weight(first_y + i, centre_y, reach_y, start_y, end_y)
        line = image + (first_y + i).to(tl.int64) * per_line
        for j in range(0, taps_x):
            share = weight_y * weight(first_x + j, centre_x, reach_x, start_x, end_x)
            place = line + (first_x + j) * per_pixel
            red += share * tl.load(place, mask=share > 0, other=0)
            green += share * tl.load(place + per_channel, mask=share > 0, other=0)
            blue += share * tl.load(place + 2 * per_channel, mask=share > 0, other=0)
    # Summed separately from the pixels, or the compiler would move each tap's weight between threads.
    total = 255 * total_weight(taps_y, first_y, centre_y, reach_y, start_y, end_y)
    total *= total_weight(taps_x, first_x, centre_x, reach_x, start_x, end_x)
    return red / total, green / total, blue / total


@triton.jit
@no_type_check
def taps(parameters, axis, output, SIZE: tl.constexpr):
    """How many pixels an output may see, the first, its centre, how far it sees, where the box begins and ends."""
    start, length = tl.load(parameters + axis), tl.load(parameters + 2 + axis)
    step = tl.div_rn(length, tl.full([], SIZE, tl.float32))
    reach = tl.maximum(step, 1.0)
    centre = start + (output + 0.5) * step
    first = tl.floor(centre - reach + 0.5).to(tl.int32)
    return tl.ceil(2 * reach).to(tl.int32), first, centre, reach, start, start + length


@triton.jit
@no_type_check
def total_weight(taps, first, centre, reach, start, end):
    """Of the pixels along one axis."""
    total = tl.zeros(first.shape, tl.float32)
    for i in range(0, taps):
        total += weight(first + i, centre, reach, start, end)
    return total


@triton.jit
@no_type_check
def weight(pixel, centre, reach, start, end):
    """Of a pixel along one axis, 0 outside the box."""
    return tl.where((pixel >= start) & (pixel < end), tl.maximum(reach - tl.abs(pixel + 0.5 - centre), 0.0), 0.0)
