"""Base class of metrics that need all rows at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RowsMetric(Metric):
    """Keeps all rows; ``compute`` of a subclass uses :meth:`gathered`, which has the rows of all ranks."""

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, z: Float[Tensor, " B *shape"]) -> None:
        """Add rows ``[B, ...]``."""
        self.rows.append(z.detach())

    def gathered(self) -> Float[Tensor, " N *shape"]:
        """All rows, ``[N, ...]``; during ``compute`` those of all ranks."""
        return torch.as_tensor(dim_zero_cat(self.rows))
