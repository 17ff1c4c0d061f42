"""Pooling to a grid: beside torch's adaptive pooling, and in the encoders that have it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from simmim_pl.contracts import Encoder
from simmim_pl.encoders import FastCNN, ResNet
from simmim_pl.encoders.grid_pooling import grid_means


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_means_of_a_grid_equal_adaptive_average_pooling(height: int, width: int, side: int) -> None:
    feature_map = torch.rand(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(grid_means(feature_map, side), F.adaptive_avg_pool2d(feature_map, side).flatten(1))


@pytest.mark.parametrize("encoder", [FastCNN(4, features=5, pool=2), ResNet(18, pool=2)])
def test_pooling_to_a_grid_multiplies_the_features_not_the_channels(encoder: Encoder) -> None:
    features = encoder(torch.rand(2, 3, 32, 32))
    channels = encoder.feature_map_channels
    assert encoder.embed_dim == 4 * channels
    assert features.feature_map.shape == (2, channels, 4, 4)
    left_top = features.feature_map[:, :, :2, :2].mean((2, 3))
    torch.testing.assert_close(features.pooled.unflatten(1, (channels, 4))[:, :, 0], left_top)
