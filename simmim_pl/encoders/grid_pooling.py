"""Average a feature map in a grid of cells, and concatenate the cells' features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def grid_means(feature_map: Float[Tensor, "B D h w"], side: int) -> Float[Tensor, "B D*{side}*{side}"]:
    """``adaptive_avg_pool2d(feature_map, side).flatten(1)``, by operations that are deterministic on every device."""
    rows, columns = (cells(length, side) for length in feature_map.shape[2:])
    means = [feature_map[:, :, row, column].mean((2, 3)) for row in rows for column in columns]
    return torch.stack(means, dim=2).flatten(1) if side > 1 else means[0]


def cells(length: int, side: int) -> list[slice]:
    """``side`` slices that cover a length; neighbours share a place if it cannot be divided."""
    return [slice(cell * length // side, -(-(cell + 1) * length // side)) for cell in range(side)]
