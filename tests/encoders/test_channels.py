"""Encoders of any number of channels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import NIN, FastCNN, ResNet, Swin, Timm, Torchvision, ViT

OWN: dict[str, Callable[..., Encoder]] = {
    "fastcnn": lambda **given: FastCNN(2, **given),
    "nin": lambda **given: NIN(3, 6, **given),
    "resnet, small images": lambda **given: ResNet(18, "cifar", **given),
    "resnet, large images": lambda **given: ResNet(18, "imagenet", **given),
    "vit": lambda **given: ViT(width=8, depth=1, num_heads=2, **given),
    "swin": lambda **given: Swin(width=8, depths=(1, 1), num_heads=(1, 2), **given),
}
OTHERS: dict[str, Callable[..., Encoder]] = {
    "torchvision": lambda **given: Torchvision("resnet18", **given),
    "torchvision's first layer has a bias": lambda **given: Torchvision("convnext_tiny", **given),
    "timm": lambda **given: Timm("test_convnext", **given),
}


@pytest.mark.parametrize("name", OWN | OTHERS)
def test_one_channel_is_three_equal_channels(name: str) -> None:
    """Of the same network, whose first kernel is the sum over its channels."""
    make = (OWN | OTHERS)[name]
    of_rgb, of_grey = (make(mean=(0.5,) * each, std=(0.25,) * each, channels=each).eval() for each in (3, 1))
    state = of_rgb.state_dict()
    first = next(key for key, weight in state.items() if weight.ndim == 4)
    state[first] = state[first].sum(1, keepdim=True)
    own = of_grey.state_dict()
    of_grey.load_state_dict(state | {key: own[key] for key in ("mean", "std")})
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, expected in zip(of_grey(grey), of_rgb(grey.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"channels is 3, and the encoder's is 1: set --model\.encoder\.channels 3"):
        of_grey(grey.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match=r"channels is 1, and .* is 3: .* or --data\.source\.channels rgb\."):
        of_rgb(grey)


@pytest.mark.parametrize("name", OWN)
def test_other_images_have_statistics_of_their_own(name: str) -> None:
    encoder = OWN[name](channels=5)
    assert encoder.mean.flatten().tolist() == [0.5] * 5
    assert encoder.std.flatten().tolist() == [0.25] * 5
    given: Any = {"mean": (0.1, 0.2), "std": (0.3, 0.4), "channels": 2}
    assert OWN[name](**given).std.flatten().tolist() == pytest.approx([0.3, 0.4])
    with pytest.raises(InputError, match="mean has 2 numbers for 3 channels: give one for each channel"):
        OWN[name](mean=(0.1, 0.2))


def test_torchvisions_first_convolution_keeps_its_settings() -> None:
    before, after = (Torchvision("resnet18", channels=channels).net.conv1 for channels in (3, 5))
    assert str(after) == str(before).replace("Conv2d(3", "Conv2d(5")
    assert isinstance(after, nn.Conv2d)
    with pytest.raises(InputError, match="The weights DEFAULT are of RGB: set channels to 3, or leave weights out"):
        Torchvision("resnet18", weights="DEFAULT", channels=1)
