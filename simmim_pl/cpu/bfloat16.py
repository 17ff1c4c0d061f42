"""What makes a CPU train faster in bfloat16: each layer that torch computes slowly becomes one that it does not."""

from __future__ import annotations

from torch import nn

from simmim_pl.cpu.attention import convert_attention
from simmim_pl.cpu.small_grids import convert_small_grids


def convert_slow_layers(network: nn.Module) -> None:
    """Convert the layers in place. Only their class changes: parameters, names and optimizers stay valid."""
    convert_small_grids(network)
    convert_attention(network)
