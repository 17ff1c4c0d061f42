"""The parameters of each view as a row of numbers, drawn for all views of a batch by one kernel launch."""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from simmim_pl.runtime.constants import constant

# A row: a box (top, left, height, width), whether it is mirrored, the factors of brightness, contrast, saturation and
# hue, the order in which to change them, whether grey, the blur's width, whether solarised. Whole numbers are exact.
PARAMETERS = 16
FLIP, FACTOR, ORDER, GREY, SIGMA, SOLARIZE = (tl.constexpr(column) for column in (4, 5, 9, 13, 14, 15))

# Settings of a view: sides and area of the image; minimum and range of the crop's share of the area; minimum of its
# aspect ratio and log2 of the ratio's range; the box if none fits; then probabilities, and minimum and range of factors
# and of the blur's sigma.
HEIGHT, WIDTH, SHARE, RATIO, CENTRAL, P_FLIP, P_JITTER, LEAST, RANGE, P_GREY, P_BLUR, WIDTHS, P_SOLARIZE = (
    tl.constexpr(column) for column in (0, 1, 3, 5, 7, 11, 12, 13, 17, 21, 22, 23, 25)
)
# Then the offsets of its random numbers, for boxes and so on, in units of whole batches.
BY_BOX, BY_FLIP, BY_JITTER, BY_GREY, BY_BLUR, BY_SOLARIZE = (tl.constexpr(column) for column in range(26, 32))
SETTINGS = tl.constexpr(32)
ATTEMPTS = tl.constexpr(10)  # boxes that an image may try


def draw_parameters(
    numbers: Float[Tensor, " N"], settings: tuple[tuple[float, ...], ...], batch: int, rank: int, ranks: int
) -> Float[Tensor, "V B 16"]:
    """A row of parameters for each view of each image, by the same formulas and random numbers as in ``views/``.

    Args:
        numbers: uniform in [0, 1), for all ranks' images, as they are drawn one after the other for all views.
        settings: of each view, see ``SETTINGS``.
        batch: B, images of this rank.
        rank: of this process; image j is the whole batch's ``j · ranks + rank``.
        ranks: that share the batch.
    """
    drawn = numbers.new_empty(len(settings), batch, PARAMETERS)
    with torch.cuda.device_of(numbers):
        draw_rows[(triton.cdiv(batch, 32), len(settings))](
            *(numbers, constant(settings, numbers.device), drawn, batch, rank, ranks),
            **{"ROWS": 32, "num_warps": 1, "enable_fp_fusion": False},
        )
    return drawn


@triton.jit
@no_type_check
def draw_rows(numbers, settings, drawn, batch, rank, ranks, ROWS: tl.constexpr):
    """Rows of one view, of a few images."""
    view = tl.program_id(1).to(tl.int64)
    image = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside, place = image < batch, image.to(tl.int64) * ranks + rank
    whole = tl.zeros([], tl.int64) + batch * ranks
    settings += view * SETTINGS
    drawn += (view * batch + image) * 16
    draw_box(begin(numbers, settings + BY_BOX, whole) + place * ATTEMPTS, whole, settings, drawn, inside)
    draw_jitter(begin(numbers, settings + BY_JITTER, whole) + place * 9, settings, drawn, inside)
    flip = happens(begin(numbers, settings + BY_FLIP, whole) + place, settings + P_FLIP, inside)
    tl.store(drawn + FLIP, flip.to(tl.float32), mask=inside)
    grey = happens(begin(numbers, settings + BY_GREY, whole) + place, settings + P_GREY, inside)
    tl.store(drawn + GREY, grey.to(tl.float32), mask=inside)
    solarized = happens(begin(numbers, settings + BY_SOLARIZE, whole) + place, settings + P_SOLARIZE, inside)
    tl.store(drawn + SOLARIZE, solarized.to(tl.float32), mask=inside)
    by_blur = begin(numbers, settings + BY_BLUR, whole) + place
    sigma = within(by_blur + whole, settings + WIDTHS, settings + WIDTHS + 1, inside)
    tl.store(drawn + SIGMA, tl.where(happens(by_blur, settings + P_BLUR, inside), sigma, 0.0), mask=inside)


@triton.jit
@no_type_check
def begin(numbers, count, whole):
    """Pointer to the random numbers after ``count`` whole batches of others."""
    return numbers + tl.load(count).to(tl.int64) * whole


@triton.jit
@no_type_check
def happens(number, probability, inside):
    """Whether an event of this probability happens."""
    return tl.load(number, mask=inside) < tl.load(probability)


@triton.jit
@no_type_check
def within(number, least, width, inside):
    """Scale a uniform number to [least, least + width)."""
    return tl.load(least) + tl.load(width) * tl.load(number, mask=inside)


@triton.jit
@no_type_check
def draw_box(numbers, whole, settings, drawn, inside):
    """The first box that fits, or the central one, see :func:`simmim_pl.views.crop.sample_crop`."""
    attempt = tl.arange(0, 16)[None, :]
    tried = inside[:, None] & (attempt < ATTEMPTS)
    number, next_number = numbers[:, None] + attempt, whole * ATTEMPTS
    height, width = tl.load(settings + HEIGHT), tl.load(settings + WIDTH)
    area = tl.load(settings + WIDTH + 1) * within(number, settings + SHARE, settings + SHARE + 1, tried)
    log_ratio = tl.load(settings + RATIO + 1) * tl.load(number + next_number, mask=tried)
    aspect = tl.load(settings + RATIO) * tl.exp2(log_ratio)
    h, w = nearest(tl.sqrt_rn(tl.div_rn(area, aspect))), nearest(tl.sqrt_rn(area * aspect))
    top = tl.floor(tl.load(number + 2 * next_number, mask=tried) * (height - h + 1))
    left = tl.floor(tl.load(number + 3 * next_number, mask=tried) * (width - w + 1))

    fits = tried & (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = tl.min(tl.where(fits, attempt, 16), axis=1)
    keep_box(drawn, 0, top, first, settings, inside)
    keep_box(drawn, 1, left, first, settings, inside)
    keep_box(drawn, 2, h, first, settings, inside)
    keep_box(drawn, 3, w, first, settings, inside)


@triton.jit
@no_type_check
def nearest(value):
    """Round half to even, by adding 2²³, from where on float32 has only whole numbers; for small values."""
    return (value + 8388608.0) - 8388608.0


@triton.jit
@no_type_check
def keep_box(drawn, column, tried, first, settings, inside):
    """Of one column of a box that an image tried, the value of the first that fits."""
    chosen = tl.arange(0, 16)[None, :] == first[:, None]
    value = tl.sum(tl.where(chosen, tried, 0.0), axis=1)
    tl.store(drawn + column, tl.where(first < 16, value, tl.load(settings + CENTRAL + column)), mask=inside)


@triton.jit
@no_type_check
def draw_jitter(numbers, settings, drawn, inside):
    """Factors, idle or not, and the order that sorts four numbers, see :func:`simmim_pl.views.color_jitter.jitter`."""
    jittered = happens(numbers + 8, settings + P_JITTER, inside)
    for operation in tl.static_range(4):
        factor = within(numbers + operation, settings + LEAST + operation, settings + RANGE + operation, inside)
        idle = 0.0 if operation == 3 else 1.0
        tl.store(drawn + FACTOR + operation, tl.where(jittered, factor, idle), mask=inside)
        number = tl.load(numbers + 4 + operation, mask=inside)
        place = tl.zeros(inside.shape, tl.int32)
        for other in tl.static_range(4):
            against = tl.load(numbers + 4 + other, mask=inside)
            place += ((against < number) | ((against == number) & (other < operation))).to(tl.int32)
        tl.store(drawn + ORDER + place, operation + 0.0, mask=inside)
