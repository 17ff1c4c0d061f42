"""NIN has the layers of the authors' NetworkInNetwork: channels, kernels, pools and parameters."""

import pytest
import torch
from torch import nn

from simmim_pl.contracts import InputError
from simmim_pl.encoders import NIN

# github.com/gidariss/FeatureLearningRotNet, architectures/NetworkInNetwork.py: (in, out, kernel) of each convolution.
FIRST = [(3, 192, 5), (192, 160, 1), (160, 96, 1)]
SECOND = [(96, 192, 5), (192, 192, 1), (192, 192, 1)]
LATER = [(192, 192, 3), (192, 192, 1), (192, 192, 1)]


@pytest.mark.parametrize("blocks", [3, 4, 5])
def test_layers_equal_the_authors_code(blocks: int) -> None:
    encoder = NIN(blocks)
    assert encoder.layers() == [f"net.block{number}" for number in range(1, blocks + 1)]
    expected = [FIRST, SECOND] + [LATER] * (blocks - 2)
    for name, convolutions in zip(encoder.layers(), expected, strict=True):
        found = [part for part in encoder.get_submodule(name).modules() if isinstance(part, nn.Conv2d)]
        assert [(conv.in_channels, conv.out_channels, *set(conv.kernel_size)) for conv in found] == convolutions
        assert all(conv.stride == (1, 1) and conv.bias is None for conv in found)
    weights = sum(before * after * size**2 + 2 * after for part in expected for before, after, size in part)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == weights
    pools = [part for part in encoder.modules() if isinstance(part, nn.MaxPool2d | nn.AvgPool2d)]
    assert [(type(pool).__name__, pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [
        ("MaxPool2d", 3, 2, 1),
        ("AvgPool2d", 3, 2, 1),
    ]


def test_block_outputs_have_the_papers_sizes() -> None:
    encoder, features = NIN(), torch.rand(2, 3, 32, 32)
    shapes = []
    for block in encoder.net:
        features = block(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(96, 16, 16), (192, 8, 8), (192, 8, 8), (192, 8, 8)]


@pytest.mark.parametrize("width", [1, 2, 6])
def test_attributes_equal_the_output_at_any_width(width: int) -> None:
    encoder = NIN(3, width)
    found = encoder(torch.rand(2, 3, 16, 24))
    assert found.feature_map.shape == (2, encoder.embed_dim, 16 // encoder.stride, 24 // encoder.stride)
    torch.testing.assert_close(found.pooled, found.feature_map.mean((2, 3)))


def test_fewer_than_three_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="blocks has to be 3 or more"):
        NIN(2)
