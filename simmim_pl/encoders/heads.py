"""Heads on an encoder's pooled features: projection head and linear classifier."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.runtime.ranges import PositiveInt, ranged


class ProjectionHead(nn.Module):
    """MLP from features to the space in which the loss compares views; discarded after pretraining.

    Chen et al. 2020, section 4.2 (arXiv 2002.05709).

    Args:
        input_dim: D, length of the encoder's pooled features; the method supplies it.
        hidden_dim: units of each hidden layer.
        output_dim: P, length of the projection.
        num_layers: number of linear layers, at least 1.
        norm: BatchNorm after each hidden layer.
        bias: bias in the last layer.
        output_norm: BatchNorm without weights after the last layer, as MoCo v3's projection head has it.
    """

    @ranged
    def __init__(
        self,
        input_dim: PositiveInt,
        hidden_dim: PositiveInt = 512,
        output_dim: PositiveInt = 128,
        num_layers: PositiveInt = 2,
        norm: bool = False,
        bias: bool = False,
        output_norm: bool = False,
    ) -> None:
        super().__init__()
        self.output_dim = output_dim
        dims = [input_dim] + [hidden_dim] * (num_layers - 1)
        blocks: list[nn.Module] = []
        for before, after in pairwise(dims):
            blocks += [nn.Linear(before, after, bias=not norm)]
            blocks += [nn.BatchNorm1d(after)] if norm else []
            blocks += [nn.ReLU(inplace=True)]
        last = [nn.BatchNorm1d(output_dim, affine=False)] if output_norm else []
        self.mlp = nn.Sequential(*blocks, nn.Linear(dims[-1], output_dim, bias=bias), *last)

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        projected: Tensor = self.mlp(pooled)
        return projected


class Classifier(nn.Module):
    """Linear classifier on features standardised by BatchNorm, as the online probe trains it.

    Args:
        input_dim: D, length of the features.
        num_classes: C, number of classes.
    """

    def __init__(self, input_dim: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.standardise = nn.BatchNorm1d(input_dim, affine=False)
        self.linear = nn.Linear(input_dim, num_classes)

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        logits: Tensor = self.linear(self.standardise(pooled))
        return logits
