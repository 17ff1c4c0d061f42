"""Rows on the unit sphere, of any length that a float holds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def unit(z: Float[Tensor, "*rows P"]) -> Float[Tensor, "*rows P"]:
    """Rows divided by their length, in float32 at least.

    Neither a length that overflows nor one that underflows is lost. A row of zeros has no direction: it stays zero,
    the middle of the sphere, and has no gradient.

    >>> unit(torch.tensor([[3e38, -3e38], [0.0, 1e-30], [0.0, 0.0]]))
    tensor([[ 0.7071, -0.7071],
            [ 0.0000,  1.0000],
            [ 0.0000,  0.0000]])
    """
    z = z if z.dtype == torch.float64 else z.float()
    greatest = z.detach().abs().amax(-1, keepdim=True)
    # The squares of what lies between neither overflow nor vanish, so most rows are left to the last bit.
    usual = (greatest > 1e-9) & (greatest < 1e15)
    scaled = z / greatest.masked_fill(usual | (greatest == 0), 1)
    return F.normalize(scaled.masked_fill(greatest == 0, 0), dim=-1)
