"""Colour operations as Triton functions, one tensor per channel: jitter, grayscale and solarising as in ``views/``."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from simmim_pl.gpu.parameters import FACTOR, ORDER

CONTRAST, SATURATION, HUE = (tl.constexpr(place) for place in (1, 2, 3))  # of the factors; brightness is the first
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in (0.2989, 0.587, 0.114))  # torchvision's weights in grey


@triton.jit
@no_type_check
def jitter_steps(parameters):
    """Number of colour operations (4, or 0 if all are idle), and the position of the first that needs the mean."""
    factors = parameters + FACTOR
    idle = (
        (tl.load(factors) == 1)
        & (tl.load(factors + 1) == 1)
        & (tl.load(factors + 2) == 1)
        & (tl.load(factors + 3) == 0)
    )
    order = parameters + ORDER
    contrast = 0
    for step in tl.static_range(1, 4):
        contrast = tl.where(tl.load(order + step) == CONTRAST, step, contrast)
    return tl.where(idle, 0, 4), tl.where(idle, 0, contrast)


@triton.jit
@no_type_check
def jitter(red, green, blue, mean, parameters, step):
    """Do the colour operation of this step, see :mod:`simmim_pl.views.color_jitter`."""
    operation = tl.load(parameters + ORDER + step).to(tl.int32)
    factor = tl.load(parameters + FACTOR + operation)
    if operation == HUE:
        red, green, blue = turn_hue(red, green, blue, factor)
    else:
        other = tl.where(operation == SATURATION, luma(red, green, blue), tl.where(operation == CONTRAST, mean, 0.0))
        other *= 1 - factor
        red = clamp(factor * red + other)
        green = clamp(factor * green + other)
        blue = clamp(factor * blue + other)
    return red, green, blue


@triton.jit
@no_type_check
def turn_hue(red, green, blue, turn):
    """Turn the hue by a fraction of the circle, see :func:`simmim_pl.views.color_jitter.turn_hue`."""
    high = tl.maximum(tl.maximum(red, green), blue)
    low = tl.minimum(tl.minimum(red, green), blue)
    hue = tl.abs(high - red + green + blue - 2 * low) / tl.maximum(6 * (high - low), 1e-12)
    hue = tl.where(green < blue, -hue, hue) + turn
    hue = 6 * (hue - tl.floor(hue))
    red = low + (high - low) * clamp(tl.abs(hue - 3) - 1)
    green = low + (high - low) * clamp(2 - tl.abs(hue - 2))
    return red, green, low + (high - low) * clamp(2 - tl.abs(hue - 4))


@triton.jit
@no_type_check
def luma(red, green, blue):
    """Grey."""
    return RED * red + GREEN * green + BLUE * blue


@triton.jit
@no_type_check
def clamp(value):
    """Into [0, 1]."""
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
@no_type_check
def solarize(value):
    """Inverted where bright."""
    return tl.where(value >= 0.5, 1 - value, value)
