"""L2 normalisation of rows that neither overflows nor underflows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def unit(z: Float[Tensor, "*rows P"]) -> Float[Tensor, "*rows P"]:
    """Divide each row by its L2 norm, in float32 or better.

    Works for every finite row, also where its squared norm overflows or underflows. A row of zeros has no direction: it
    stays zero (the centre of the sphere) and gets no gradient.

    Args:
        z: ``[..., P]``, any float type; the last axis is normalised.

    Returns:
        The same shape, float64 if ``z`` is, else float32.

    >>> unit(torch.tensor([[3e38, -3e38], [0.0, 1e-30], [0.0, 0.0]]))
    tensor([[ 0.7071, -0.7071],
            [ 0.0000,  1.0000],
            [ 0.0000,  0.0000]])
    """
    z = z if z.dtype == torch.float64 else z.float()
    greatest = z.detach().abs().amax(-1, keepdim=True)
    # Between these limits squares neither overflow nor underflow, so such rows are divided by their norm alone.
    usual = (greatest > 1e-9) & (greatest < 1e15)
    scaled = z / greatest.masked_fill(usual | (greatest == 0), 1)
    return F.normalize(scaled.masked_fill(greatest == 0, 0), dim=-1)
