"""Gaussian blur along one axis, as a Triton function; computes the same as :mod:`simmim_pl.views.gaussian_blur`."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def blur(image, place, along, stride, sigma, side, SIZE: tl.constexpr):
    """Mean of neighbours along one axis, weighted by a Gaussian, mirrored at the border."""
    value = tl.zeros(place.shape, tl.float32)
    total = 0.0
    for shift in range(-side, side + 1):
        neighbour = tl.abs(along + shift)
        neighbour = tl.where(neighbour < SIZE, neighbour, 2 * SIZE - 2 - neighbour)
        share = tl.exp(-0.5 * (shift / sigma) * (shift / sigma))
        value += share * tl.load(image + place + (neighbour - along) * stride, mask=place < 3 * SIZE * SIZE, other=0.0)
        total += share
    return value / total
