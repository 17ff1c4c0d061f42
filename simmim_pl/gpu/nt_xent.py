"""NT-Xent on a GPU: similarities are computed and used in tiles, and never written to GPU memory.

Let ``u_i`` be the unit rows of all ranks, ``s_ij`` their similarities over the temperature, minus infinity if left out,
and ``p_ij = exp(s_ij - log Σ_k exp s_ik)``. Exclusions are symmetric, so s is symmetric, and the gradient of all ranks'
losses with respect to this rank's row i is

    ∂/∂u_i = 1 / (A τ) · Σ_j (p_ij g_i + p_ji g_j) u_j  -  positives' part,

with A anchors per rank, and g_i the incoming gradient of the loss of row i's rank. A rank that has every row and every
row's log-sum-exp therefore computes the complete gradient of its rows: one matrix product forward and two backward, as
many as a loss that stores the softmax needs. Gradients of rows are not communicated. The same holds for one rank.

- Three kernels and a mean compute the loss and its gradient: ``normalise``, for unit rows and the positives' term,
  ``log_partition``, and ``gradient``, which ends with the derivative of the normalisation. All sums have a fixed order.
- Elements of unit rows are at most 1, softmax weights at most 2, so a scaled pair of float16 holds 22 of float32's 24
  bits. Three float16 products are then as exact as TF32x3 at half its cost: tensor cores compute float16 twice as fast,
  and rows are split once, where TF32 would be split in every tile.
- Memory: rows as pairs, as much as the rows in float32, and three numbers per row.
- Nothing waits for the GPU, and no control flow depends on values, so CUDA graphs can capture it.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.runtime import distributed
from simmim_pl.runtime.once_differentiable import no_double_backward

WIDEST = 256  # elements of a row: with more, no tile fits into shared memory
FAR = 50.0  # log2 of exp(1/τ), beyond which the squared range of exp(s) leaves float32
SHARED = 101376  # bytes of shared memory per program on any GPU since Ampere; torch before 2.7 does not report it
SPARE = 4096  # bytes of shared memory for everything but rows
TRITON = find_spec("triton") is not None
#: Anchors and rows of a tile, warps, pipeline stages. The first that fits into shared memory is used. On an H200
#: (benchmarks/nt_xent.py, 128 elements) the first was the fastest from 1,024 rows to 65,536, for both kernels, of tiles
#: of 16 to 256 anchors.
TILES = ((64, 64, 4, 2), (64, 32, 8, 2), (16, 32, 4, 2))


def serves(z: Tensor) -> bool:
    """Whether these kernels compute the loss of ``z``: on an NVIDIA GPU since Ampere, with Triton, and not float64."""
    return (
        z.is_cuda
        and TRITON
        and z.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and z.shape[-1] <= WIDEST
        and torch.version.hip is None
        and torch.cuda.get_device_capability(z.device) >= (8, 0)
    )


def nt_xent(z: Float[Tensor, "V B P"], temperature: float, decoupled: bool) -> Float[Tensor, ""]:
    """:func:`simmim_pl.losses.nt_xent`, for inputs that :func:`serves` accepts."""
    loss: Tensor = FusedNTXent.apply(z, temperature, decoupled)
    return loss


class FusedNTXent(torch.autograd.Function):
    """Loss and gradient; the gradient is that of all ranks' losses, as if rows were gathered with gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float, decoupled: bool) -> Tensor:
        from simmim_pl.gpu import nt_xent_kernels as kernels

        views, images, _ = z.shape
        z, anchors, scale = z.contiguous(), views * images, math.log2(math.e) / temperature
        with torch.cuda.device_of(z):
            pairs, agreement = normalised(z, 1 / (temperature * (views - 1)))
            rows, first = distributed.all_gather(pairs), distributed.rank() * anchors
            log_mass, loss = torch.empty_like(agreement), torch.empty_like(agreement)
            where = (anchors, len(rows), first, images if decoupled else anchors)
            grid, tile = launch(rows, anchors)
            kernels.log_partition[grid](rows, agreement, log_mass, loss, *where, scale, **tile)
        ctx.save_for_backward(z, rows, log_mass)
        ctx.where, ctx.scale, ctx.temperature = where, scale, temperature
        return loss.mean()

    @staticmethod
    @no_double_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        from simmim_pl.gpu import nt_xent_kernels as kernels

        z, rows, log_mass = ctx.saved_tensors
        (views, _, _), anchors = z.shape, ctx.where[0]
        log_masses, grads = distributed.all_gather(log_mass), distributed.all_gather(grad.reshape(1))
        by_z = torch.empty_like(z)
        grid, tile = launch(rows, anchors)
        kernels.gradient[grid](
            *(z, rows, log_masses, grads, by_z, *z.shape, len(grads), *ctx.where),
            *(ctx.scale, 2 / (views - 1), 1 / (anchors * ctx.temperature)),
            **(tile | {"FAR": ctx.scale > FAR, "RANKS": power_of_2(len(grads))}),
        )
        return by_z, None, None


@torch.no_grad()
def contrastive_accuracy(z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
    """:func:`simmim_pl.losses.nt_xent.contrastive_accuracy`, if :func:`serves` accepts ``z``; a tie counts as wrong."""
    from simmim_pl.gpu import nt_xent_kernels as kernels

    images, anchors = z.shape[1], z.shape[0] * z.shape[1]
    with torch.cuda.device_of(z):
        pairs, hit = normalised(z.contiguous(), 1.0)
        rows = distributed.all_gather(pairs)
        grid, tile = launch(rows, anchors)
        kernels.nearest[grid](rows, hit, anchors, len(rows), distributed.rank() * anchors, images, **tile)
    return hit.mean()


def normalised(z: Tensor, pull: float) -> tuple[Tensor, Tensor]:
    """This rank's unit rows as pairs, and pull times every anchor's summed similarity to its positives."""
    from simmim_pl.gpu import nt_xent_kernels as kernels

    (views, images, width), padded = z.shape, max(16, power_of_2(z.shape[-1]))
    pairs = torch.empty(views * images, 2, padded, dtype=torch.float16, device=z.device)
    agreement = torch.empty(views * images, dtype=torch.float32, device=z.device)
    tall = 2048 // padded
    grid = (-(-images // tall),)
    kernels.normalise[grid](z, pairs, agreement, views, images, width, pull, WIDTH=padded, TALL=tall)
    return pairs, agreement


def launch(rows: Tensor, anchors: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid of a kernel, and its tile size and other launch parameters."""
    device = torch.cuda.get_device_properties(rows.device) if rows.is_cuda else None
    shared = getattr(device, "shared_memory_per_block_optin", SHARED)
    tall, wide, warps, stages = tile(rows.shape[-1], shared)
    sizes = {"WIDTH": rows.shape[-1], "TALL": tall, "WIDE": wide}
    return (-(-anchors // tall),), sizes | {"num_warps": warps, "num_stages": stages}


def tile(width: int, shared: int) -> tuple[int, int, int, int]:
    """The first of :data:`TILES` whose rows fit in ``shared`` bytes."""
    for tall, wide, warps, stages in TILES:
        if (tall + stages * wide) * 4 * width + SPARE <= shared:
            return tall, wide, warps if width <= 128 else 8, stages
    return TILES[-1]


def power_of_2(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()
