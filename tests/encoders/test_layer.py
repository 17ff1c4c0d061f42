"""Layers equal torchvision's feature extractor and timm's intermediates, for any shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.encoders import NIN, FastCNN, ResNet, Timm, Torchvision
from simmim_pl.encoders.layer import Layer, Layers


def image(height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_resnet_layers_equal_torchvisions_feature_extractor() -> None:
    encoder, images = ResNet(18).eval(), image(16, 24)
    nodes = {name.removeprefix("net."): name for name in encoder.layers()}
    expected = create_feature_extractor(encoder.net, nodes)(encoder.normalize(images))
    assert list(expected) == encoder.layers()
    for name, feature_map in expected.items():
        layer = Layer(encoder, name).eval()
        found = layer(images)
        assert torch.equal(found.feature_map, feature_map)
        assert torch.equal(found.pooled, feature_map.mean((2, 3)))
        assert feature_map.shape == (2, layer.embed_dim, 16 // layer.stride, 24 // layer.stride)
    assert torch.equal(found.pooled, encoder(images).pooled)  # the last


@torch.no_grad()
def test_vit_layers_equal_timms_intermediates_without_the_class_token() -> None:
    encoder = Timm("test_vit").eval()
    images = image(160, 160)
    maps = encoder.net.forward_intermediates(encoder.normalize(images), intermediates_only=True)
    assert len(maps) == len(encoder.layers()) == 6
    for name, feature_map in zip(encoder.layers(), maps, strict=True):
        layer = Layer(encoder, name).eval()
        found = layer(images)
        assert torch.equal(found.feature_map, feature_map)
        torch.testing.assert_close(found.pooled, feature_map.mean((2, 3)))
        assert (layer.embed_dim, layer.stride) == (feature_map.shape[1], 16)


@torch.no_grad()
def test_channels_last_layers_become_channels_first() -> None:
    encoder = Torchvision("swin_t").eval()
    layer = Layer(encoder, "net.features.1").eval()
    for images in (image(32, 32), image(32, 64)):
        given = encoder.net.features[1](encoder.net.features[0](encoder.normalize(images)))
        assert given.shape[3] == 96
        assert torch.equal(layer(images).feature_map, given.permute(0, 3, 1, 2))
    assert (layer.embed_dim, layer.stride) == (96, 4)


class Given(nn.Module):
    """Applies a given function to its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make, self.weight = make, nn.Parameter(torch.ones(1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


class Odd(Encoder):
    """An encoder of stride 4 with a layer of any output, and an unused one."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__(3, (0.5,) * 3, (0.5,) * 3, stride=4)
        self.odd, self.unused = Given(make), Given(make)

    def forward(self, image: Tensor) -> Features:
        given = self.odd(image)
        if isinstance(given, Tensor):
            given.zero_()  # in place, like some activations
        feature_map = nn.functional.avg_pool2d(image, 4)
        return Features(feature_map.mean((2, 3)), feature_map)


def tokens(number: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.linspace(0, 1, number * 5, device=x.device).view(1, number, 5).expand(len(x), -1, -1).clone()


@pytest.mark.parametrize(
    ("make", "pooled", "shape"),
    [
        (lambda x: x[:, :, ::2, ::2].clone(), lambda x: x[:, :, ::2, ::2].mean((2, 3)), (3, 8, 8)),
        (lambda x: (x[:, :2, 1:, 1:].clone(), None), lambda x: x[:, :2, 1:, 1:].mean((2, 3)), (2, 15, 15)),
        (lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3)), (3, 1, 1)),
        (lambda x: [None, x.mean((2, 3))], lambda x: x.mean((2, 3)), (3, 1, 1)),
        (tokens(16), lambda x: tokens(16)(x).mean(1), (5, 4, 4)),
        (tokens(18), lambda x: tokens(18)(x)[:, 2:].mean(1), (5, 4, 4)),
        (tokens(9), lambda x: tokens(9)(x).mean(1), (5, 1, 1)),
        (tokens(64), lambda x: tokens(64)(x).mean(1), (5, 1, 1)),
    ],
)
def test_layer_outputs_are_pooled_before_in_place_changes(
    make: Callable[[Tensor], Any], pooled: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    images = image()
    layer = Layer(Odd(make), "odd")
    found = layer(images)
    torch.testing.assert_close(found.pooled, pooled(images))
    torch.testing.assert_close(found.feature_map.mean((2, 3)), found.pooled)
    assert found.feature_map.shape[1:] == shape


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (lambda x: {"x": x}, "odd", "Odd's odd gives dict for 2 images"),
        (lambda x: x.mean(), "odd", r"Odd's odd gives \[\] for 2 images"),
        (
            lambda x: x.mean(0),
            "odd",
            r"gives \[3, .*\] for 2 images, which is not a batch of features: choose another layer",
        ),
        (lambda x: x[:, None].clone(), "odd", r"gives \[2, 1, 3"),
        (lambda x: x, "unused", "Layer unused of Odd cannot be read: images do not pass through it"),
        (lambda x: x.clone(), "od", "Odd has no layer od: choose one of odd, unused"),
    ],
)
def test_unreadable_layers_are_reported(make: Callable[[Tensor], Any], name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Layer(Odd(make), name)


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: FastCNN(2), lambda: NIN(3, 4)])
def test_all_layers_at_once_equal_single_layers(make: Callable[[], Encoder]) -> None:
    encoder = make().eval()
    every = Layers(encoder).eval()
    found = every.each(image())
    assert every.names == encoder.layers()
    assert torch.equal(every(image()).pooled, torch.cat(found, 1))
    for name, pooled in zip(encoder.layers(), found, strict=True):
        assert torch.equal(pooled, Layer(encoder, name).eval()(image()).pooled)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_finding_the_shape_does_not_change_the_encoder() -> None:
    encoder = FastCNN(2)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    layer = Layer(encoder, "net.4")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.training
    assert layer(image()).feature_map.shape == (2, layer.embed_dim, 16 // layer.stride, 16 // layer.stride)


@pytest.mark.parametrize("make", [lambda x: x * x.sum().item(), lambda x: x @ x.new_zeros(5, 1)])
def test_an_unknown_shape_is_none(make: Callable[[Tensor], Tensor]) -> None:
    layer = Layer(Odd(make), "odd")
    assert (layer.embed_dim, layer.stride) == (0, 4)
