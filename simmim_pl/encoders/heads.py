"""Heads that sit on an encoder's pooled features."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.runtime.ranges import PositiveInt, ranged


class ProjectionHead(nn.Module):
    """MLP from features to the space where views are compared; thrown away after pretraining.

    Chen et al. 2020, section 4.2 (arXiv 2002.05709).

    Args:
        width: D, length of the encoder's pooled features; the method supplies it.
        hidden: units of each hidden layer.
        out: P, length of the projection.
        layers: linear layers in all, at least 1.
        norm: BatchNorm after each hidden layer.
        bias: give the last layer a bias.
    """

    @ranged
    def __init__(
        self,
        width: PositiveInt,
        hidden: PositiveInt = 512,
        out: PositiveInt = 128,
        layers: PositiveInt = 2,
        norm: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        widths = [width] + [hidden] * (layers - 1)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Linear(before, after, bias=not norm)]
            blocks += [nn.BatchNorm1d(after)] if norm else []
            blocks += [nn.ReLU(inplace=True)]
        self.mlp = nn.Sequential(*blocks, nn.Linear(widths[-1], out, bias=bias))

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        projected: Tensor = self.mlp(pooled)
        return projected


class Classifier(nn.Module):
    """Linear classifier on standardised features: what an online probe trains.

    Args:
        width: D, length of the features.
        classes: C, number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.standardise = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, classes)

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        logits: Tensor = self.linear(self.standardise(pooled))
        return logits
