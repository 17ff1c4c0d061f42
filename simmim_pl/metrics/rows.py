"""Metrics that need all rows at once keep them; every rank's in the end."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Rows(Metric):
    """Base of metrics of all rows ``[N, ...]`` at once; subclasses define ``compute`` on :meth:`gathered`."""

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, z: Float[Tensor, " B *shape"]) -> None:
        """Keep some rows."""
        self.rows.append(z.detach())

    def gathered(self) -> Float[Tensor, " N *shape"]:
        """All rows so far."""
        return torch.as_tensor(dim_zero_cat(self.rows))
