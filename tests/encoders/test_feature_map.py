"""Channels and stride found on the meta device equal those of a real forward pass."""

import pytest
import torch
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders import FastCNN, Torchvision
from simmim_pl.encoders.feature_map import feature_map_of
from simmim_pl.evaluation.frozen import RawPixels


class Unpadded(Encoder):
    """Has no padding; BatchNorm has state and dropout draws random numbers."""

    def __init__(self) -> None:
        super().__init__(5, (0.5,) * 3, (0.25,) * 3, stride=1)
        convolutions = [nn.Conv2d(3, 4, 5, stride=2), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 7, 5, stride=4)]
        self.net = nn.Sequential(*convolutions)
        self.last = nn.Linear(7, 5)

    def forward(self, image: Tensor) -> Features:
        feature_map = self.net(self.normalize(image))
        return Features(self.last(feature_map.mean((2, 3))), feature_map)


@pytest.mark.parametrize("size", [37, 48, 50])
def test_without_padding_the_stride_is_found_from_a_larger_image(size: int) -> None:
    encoder = Unpadded()
    before, random = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}, torch.get_rng_state()
    assert feature_map_of(encoder, size) == (7, 8)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    shapes = [encoder(torch.rand(2, 3, side, side)).feature_map.shape for side in (size, size + 80)]
    assert shapes[1][2] - shapes[0][2] == 80 / 8
    assert shapes[0][1] == 7


@pytest.mark.parametrize(
    "encoder",
    [FastCNN(2), FastCNN(2, features=5), RawPixels(), Torchvision("alexnet")],
    ids=lambda encoder: type(encoder).__name__,
)
def test_feature_map_attributes_equal_the_output(encoder: Encoder) -> None:
    with torch.no_grad():
        small, large = (encoder(torch.rand(2, 3, size, size)).feature_map for size in (64, 128))
    assert small.shape[1] == large.shape[1] == encoder.feature_map_channels
    assert large.shape[2] - small.shape[2] == 64 / encoder.stride
    assert feature_map_of(encoder, 64) == (encoder.feature_map_channels, encoder.stride)
