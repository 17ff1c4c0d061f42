"""The views of a batch in one kernel launch: one program does crop, flip, colours, blur and solarising of a view.

On a GPU, views take the time of kernel launches, not of arithmetic: with torch's operations, two views of 512 images
take four hundred launches. Here one program makes a complete view. It needs no synchronisation with other programs
between passes over its pixels, sums have a fixed order, and the same parameters give bit-identical views. What it
writes and reads again is still in the cache.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, UInt8
from torch import Tensor

from simmim_pl.gpu.blur import blur
from simmim_pl.gpu.colors import jitter, jitter_steps, luma, solarize
from simmim_pl.gpu.crop import crop
from simmim_pl.gpu.parameters import GREY, PARAMETERS, SIGMA, SOLARIZE


def make_views(
    image: UInt8[Tensor, "B 3 H W"], parameters: Float[Tensor, "V B 16"], size: int, kernel: int
) -> Float[Tensor, "V B 3 S S"]:
    """Make V views of each image, ``size`` = S pixels a side, by their parameters.

    Args:
        image: the images, with any strides.
        parameters: see ``PARAMETERS``.
        size: S.
        kernel: size of the blur's kernel in pixels, odd; 1 for no blur.
    """
    views = torch.empty(*parameters.shape[:2], 3, size, size, device=image.device)
    launch(image, parameters, views, kernel, cut=True)
    return views


def change_views(view: Float[Tensor, "B 3 S S"], parameters: Float[Tensor, "B 16"], kernel: int) -> None:
    """The same without crop and flip, in place."""
    launch(view, parameters, view, kernel, cut=False)


def launch(image: Tensor, parameters: Tensor, views: Tensor, kernel: int, cut: bool) -> None:
    """Launch a program per view, with tiles of four pixels per thread: with more, registers would spill."""
    size = views.shape[-1]
    tile = min(max(triton.next_power_of_2(size**2), 128), 512 if size <= 32 else 1024)
    between = torch.empty_like(views) if kernel > 1 else views
    with torch.cuda.device_of(views):
        one_view[(parameters.numel() // PARAMETERS,)](
            *(image, parameters, views, between, len(image), *image.stride(), kernel // 2),
            **{"SIZE": size, "CUT": cut, "TILE": tile, "num_warps": tile // 128},
        )


@triton.jit
@no_type_check
def one_view(
    image,
    parameters,
    views,
    between,
    batch,
    per_image,
    per_channel,
    per_line,
    per_pixel,
    side,
    SIZE: tl.constexpr,
    CUT: tl.constexpr,
    TILE: tl.constexpr,
):
    """One view: a pass over its pixels up to contrast, which needs their mean; one for the rest; two for the blur."""
    row = tl.program_id(0).to(tl.int64)
    image += (row % batch) * per_image
    parameters += row * 16
    view = views + row * 3 * SIZE * SIZE
    between += row * 3 * SIZE * SIZE
    steps, contrast = jitter_steps(parameters)
    blurred = (side > 0) & (tl.load(parameters + SIGMA) > 0)
    grey = tl.load(parameters + GREY) > 0
    solarized = tl.load(parameters + SOLARIZE) > 0

    total = tl.zeros([TILE], tl.float32)
    for start in range(0, SIZE * SIZE, TILE):
        pixel = start + tl.arange(0, TILE)
        inside = pixel < SIZE * SIZE
        if CUT:
            place = tl.minimum(pixel, SIZE * SIZE - 1)
            red, green, blue = crop(
                image, parameters, place // SIZE, place % SIZE, per_channel, per_line, per_pixel, SIZE
            )
        else:
            red, green, blue = load(view + pixel, inside, SIZE)
        for step in range(0, contrast):
            red, green, blue = jitter(red, green, blue, 0.0, parameters, step)
        total += tl.where(inside, luma(red, green, blue), 0.0)
        store(view + pixel, inside, red, green, blue, SIZE)
    mean = tl.sum(total) / (SIZE * SIZE)
    tl.debug_barrier()  # from here a thread may read what others of its program wrote

    if (contrast < steps) | grey | (solarized & ~blurred):
        for start in range(0, SIZE * SIZE, TILE):
            pixel = start + tl.arange(0, TILE)
            inside = pixel < SIZE * SIZE
            red, green, blue = load(view + pixel, inside, SIZE)
            for step in range(contrast, steps):
                red, green, blue = jitter(red, green, blue, mean, parameters, step)
            if grey:
                red = luma(red, green, blue)
                green, blue = red, red
            if solarized & ~blurred:
                red, green, blue = solarize(red), solarize(green), solarize(blue)
            store(view + pixel, inside, red, green, blue, SIZE)

    if blurred:
        sigma = tl.load(parameters + SIGMA)
        tl.debug_barrier()
        for start in range(0, 3 * SIZE * SIZE, TILE):
            place = start + tl.arange(0, TILE)
            value = blur(view, place, place // SIZE % SIZE, SIZE, sigma, side, SIZE)
            tl.store(between + place, value, mask=place < 3 * SIZE * SIZE)
        tl.debug_barrier()
        for start in range(0, 3 * SIZE * SIZE, TILE):
            place = start + tl.arange(0, TILE)
            value = blur(between, place, place % SIZE, 1, sigma, side, SIZE)
            value = tl.where(solarized, solarize(value), value)
            tl.store(view + place, value, mask=place < 3 * SIZE * SIZE)


@triton.jit
@no_type_check
def load(pixel, inside, SIZE: tl.constexpr):
    """Three channels."""
    red = tl.load(pixel, mask=inside, other=0.0)
    green = tl.load(pixel + SIZE * SIZE, mask=inside, other=0.0)
    return red, green, tl.load(pixel + 2 * SIZE * SIZE, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store(pixel, inside, red, green, blue, SIZE: tl.constexpr):
    """Three channels."""
    tl.store(pixel, red, mask=inside)
    tl.store(pixel + SIZE * SIZE, green, mask=inside)
    tl.store(pixel + 2 * SIZE * SIZE, blue, mask=inside)
