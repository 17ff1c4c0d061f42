"""The Triton kernels of :mod:`simmim_pl.gpu.nt_xent`, which explains the algorithm.

``rows`` are all ranks' unit rows ``[keys, 2, WIDTH]`` as pairs of float16; this rank's anchors begin at ``first``. A
program holds ``TALL`` anchors, and loops over all rows, ``WIDE`` at a time. A row is excluded from an anchor's sum if
both have the same index modulo ``period``. With the number of anchors as period, that is the anchor itself; with the
number of images, all views of its image.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# Before they are split, so that the smaller half is a normal float16 too:
UNIT = tl.constexpr(2.0**8)  # what elements of unit rows are multiplied by
WEIGHT = tl.constexpr(14.0)  # log2 of the scale of softmax weights: a sum of two is at most 2, a float16 at most 65504


@triton.jit
@no_type_check
def halves(x):
    """``x`` as the sum of two float16."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
@no_type_check
def direction(z, row, inside, width, WIDTH: tl.constexpr):
    """Rows of length one, zero for a row of zeros, and 1 / their length: runtime/unit_norm.py in a kernel."""
    column = tl.arange(0, WIDTH)
    x = tl.load(z + row[:, None] * width + column, mask=inside[:, None] & (column < width), other=0.0).to(tl.float32)
    greatest = tl.max(tl.abs(x), 1)
    usual = (greatest > 1e-9) & (greatest < 1e15)
    divisor = tl.where(usual | (greatest == 0), 1.0, greatest)
    x = x / divisor[:, None]
    inverse = tl.where(greatest == 0, 0.0, 1 / tl.sqrt(tl.where(greatest == 0, 1.0, tl.sum(x * x, 1))))
    return x * inverse[:, None], inverse / divisor


@triton.jit
@no_type_check
def normalise(
    z, pairs, agreement, views, images, width, pull, WIDTH: tl.constexpr, TALL: tl.constexpr
):  # fmt: skip
    """Write unit rows as pairs, and every anchor's summed similarity to its positives, times pull."""
    image = tl.program_id(0) * TALL + tl.arange(0, TALL)
    inside, column = image < images, tl.arange(0, WIDTH)
    together = tl.zeros([TALL, WIDTH], tl.float32)
    for view in range(views):
        row = view * images + image.to(tl.int64)
        unit, _ = direction(z, row, inside, width, WIDTH)
        high, low = halves(unit * UNIT)
        pointer = pairs + row[:, None] * 2 * WIDTH + column
        tl.store(pointer, high, mask=inside[:, None])
        tl.store(pointer + WIDTH, low, mask=inside[:, None])
        together += unit
    for view in range(views):
        row = view * images + image.to(tl.int64)
        unit, _ = direction(z, row, inside, width, WIDTH)
        tl.store(agreement + row, tl.sum(unit * (together - unit), 1) * pull, mask=inside)


@triton.jit
@no_type_check
def load(rows, row, inside, WIDTH: tl.constexpr):
    """Both halves of some rows; zeros outside."""
    pointer, there = rows + row.to(tl.int64)[:, None] * 2 * WIDTH + tl.arange(0, WIDTH), inside[:, None]
    return tl.load(pointer, mask=there, other=0.0), tl.load(pointer + WIDTH, mask=there, other=0.0)


@triton.jit
@no_type_check
def products(high, low, their_high, their_low):
    """``[TALL, WIDE]`` similarities, times the square of UNIT.

    Small products come first: tensor cores round sums towards zero (Fasi et al. 2021, doi 10.7717/peerj-cs.330).
    """
    s = tl.dot(low, tl.trans(their_high))
    s = tl.dot(high, tl.trans(their_low), s)
    return tl.dot(high, tl.trans(their_high), s)


@triton.jit
@no_type_check
def place(key, first, anchors, period):
    """Index modulo ``period`` of one of this rank's rows; -1 for rows of other ranks."""
    local = key - first
    return tl.where((local >= 0) & (local < anchors), local % period, -1)


@triton.jit
@no_type_check
def similarities(high, low, mine, their_high, their_low, key, keys, first, anchors, period, scale):
    """Similarities times scale; minus infinity for excluded rows, and past the last row."""
    past = tl.where(key < keys, 0.0, -float("inf"))
    s = products(high, low, their_high, their_low) * (scale / (UNIT * UNIT)) + past[None, :]
    return tl.where(place(key, first, anchors, period)[None, :] == mine[:, None], -float("inf"), s)


@triton.jit
@no_type_check
def log_partition(
    rows, agreement, log_mass, loss, anchors, keys, first, period, scale,
    WIDTH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write for every anchor the logarithm to base 2 of its softmax's denominator, and its loss in nats."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    inside, mine = row < anchors, row % period
    high, low = load(rows, first + row, inside, WIDTH)
    greatest = tl.full([TALL], -3e38, tl.float32)  # finite, since all of the first rows may be left out
    mass = tl.zeros([TALL], tl.float32)
    for start in range(0, keys, WIDE):
        key = start + tl.arange(0, WIDE)
        their_high, their_low = load(rows, key, key < keys, WIDTH)
        s = similarities(high, low, mine, their_high, their_low, key, keys, first, anchors, period, scale)
        above = tl.maximum(greatest, tl.max(s, 1))
        mass = mass * tl.exp2(greatest - above) + tl.sum(tl.exp2(s - above[:, None]), 1)
        greatest = above
    log = greatest + tl.log2(mass)
    tl.store(log_mass + row, log, mask=inside)
    positive = tl.load(agreement + row, mask=inside, other=0.0)
    tl.store(loss + row, log * 0.6931471805599453 - positive, mask=inside)


@triton.jit
@no_type_check
def gradient(
    z, rows, log_mass, grads, out, views, images, width, ranks, anchors, keys, first, period, scale, pull, share,
    FAR: tl.constexpr, RANKS: tl.constexpr, WIDTH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write ``share (Σ_j (p_ij g_i + p_ji g_j) u_j - pull g_i Σ_positives u)``, backward through the normalisation."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    inside, mine = row < anchors, row % period
    high, low = load(rows, first + row, inside, WIDTH)
    rank = tl.arange(0, RANKS)
    greatest = tl.max(tl.abs(tl.load(grads + rank, mask=rank < ranks, other=0.0)), 0)
    greatest = tl.where(greatest == 0, 1.0, greatest)  # by which all are divided, for weights within float16
    own_grad = tl.load(grads + first // anchors) / greatest
    own_log = tl.load(log_mass + first + row, mask=inside, other=0.0) - WEIGHT
    own_weight = own_grad * tl.exp2(scale - own_log)
    total = tl.zeros([TALL, WIDTH], tl.float32)
    for start in range(0, keys, WIDE):
        key = start + tl.arange(0, WIDE)
        there = key < keys
        their_high, their_low = load(rows, key, there, WIDTH)
        their_log = tl.load(log_mass + key, mask=there, other=0.0) - WEIGHT
        their_grad = tl.load(grads + key // anchors, mask=there, other=0.0) / greatest
        s = similarities(high, low, mine, their_high, their_low, key, keys, first, anchors, period, scale)
        if FAR:
            weight = own_grad * tl.exp2(s - own_log[:, None]) + their_grad[None, :] * tl.exp2(s - their_log[None, :])
        else:
            their_weight = their_grad * tl.exp2(scale - their_log)
            weight = tl.exp2(s - scale) * (own_weight[:, None] + their_weight[None, :])
        w_high, w_low = halves(weight)
        part = tl.dot(w_low, their_high)
        part = tl.dot(w_high, their_low, part)
        part = tl.dot(w_high, their_high, part)
        total += part * (1 / (UNIT * 16384))  # summed outside the tensor core, whose rounding has a direction
    row = row.to(tl.int64)
    unit, inverse = direction(z, row, inside, width, WIDTH)
    others = -unit
    for view in range(views):
        also, _ = direction(z, view * images + row % images, inside, width, WIDTH)
        others += also
    by_unit = total - others * (own_grad * pull)
    across = by_unit - tl.sum(by_unit * unit, 1)[:, None] * unit
    by_z = across * (inverse * greatest * share)[:, None]
    column = tl.arange(0, WIDTH)
    pointer = out + row[:, None] * width + column
    tl.store(pointer, by_z.to(out.dtype.element_ty), mask=inside[:, None] & (column < width))


@triton.jit
@no_type_check
def nearest(
    rows, hit, anchors, keys, first, images,
    WIDTH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write for every anchor 1.0 if a view of its image is nearer than any other image's row, else 0.0."""
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    inside, mine = row < anchors, row % images
    high, low = load(rows, first + row, inside, WIDTH)
    own = tl.full([TALL], -float("inf"), tl.float32)
    other = own
    for start in range(0, keys, WIDE):
        key = start + tl.arange(0, WIDE)
        their_high, their_low = load(rows, key, key < keys, WIDTH)
        s = products(high, low, their_high, their_low) + tl.where(key < keys, 0.0, -float("inf"))[None, :]
        same = place(key, first, anchors, images)[None, :] == mine[:, None]
        positive = same & ((key - first)[None, :] != row[:, None])
        own = tl.maximum(own, tl.max(tl.where(positive, s, -float("inf")), 1))
        other = tl.maximum(other, tl.max(tl.where(same, -float("inf"), s), 1))
    tl.store(hit + row, (own > other).to(tl.float32), mask=inside)
