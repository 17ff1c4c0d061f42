"""ResNet compared with torchvision's, with the same weights."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import Tensor, nn

from simmim_pl.encoders import ResNet

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")  # in order, as net.0 to net.7


def images(size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def reference(encoder: ResNet, depth: int, stem: str) -> nn.Module:
    """torchvision's network without its classifier, with the encoder's weights."""
    net = getattr(torchvision.models, f"resnet{depth}")()
    if stem == "cifar":
        net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    state = OrderedDict()
    for name, tensor in encoder.state_dict().items():
        if name.startswith("net."):
            _, part, rest = name.split(".", 2)
            state[f"{PARTS[int(part)]}.{rest}"] = tensor
    net.load_state_dict(state, strict=True)
    return net


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(("depth", "width"), [(18, 512), (34, 512), (50, 2048)])
def test_pooled_features_equal_torchvision(depth: int, width: int, stem: str) -> None:
    torch.manual_seed(0)
    encoder = ResNet(depth, stem, MEAN, STD)
    x = images(32)
    normalised = torchvision.transforms.functional.normalize(x, MEAN, STD)
    expected = reference(encoder, depth, stem)
    with torch.no_grad():
        for train in (True, False):  # the statistics of the batch, then the running ones
            features = encoder.train(train)(x)
            torch.testing.assert_close(features.pooled, expected.train(train)(normalised), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features.feature_map.mean((2, 3)), features.pooled)
    side = 4 if stem == "cifar" else 1
    assert encoder.embed_dim == width
    assert features.pooled.shape == (2, width)
    assert features.feature_map.shape == (2, width, side, side)
    assert (encoder.feature_map_channels, encoder.stride) == (width, 32 // side)


@pytest.mark.parametrize(("stem", "size", "side"), [("cifar", 40, 5), ("imagenet", 64, 2), ("imagenet", 96, 3)])
def test_the_stride_is_8_or_32(stem: str, size: int, side: int) -> None:
    with torch.no_grad():
        grid = ResNet(18, stem).eval()(images(size, batch=1)).feature_map
    assert grid.shape == (1, 512, side, side)


def test_normalisation_is_saved_with_the_weights() -> None:
    state = ResNet(mean=MEAN, std=STD).state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx(MEAN)
    assert state["std"].flatten().tolist() == pytest.approx(STD)
    other = ResNet()
    other.load_state_dict(state)
    x = images(8)
    expected = torchvision.transforms.functional.normalize(x, MEAN, STD)
    torch.testing.assert_close(other.normalize(x), expected)


def test_the_number_of_parameters_is_as_published() -> None:
    # 11,689,512 of torchvision's ResNet-18, less its 513,000 of classifier, less 64·3·(7² − 3²) of the stem.
    assert sum(p.numel() for p in ResNet(18).parameters()) == 11_689_512 - 513_000 - 7_680 == 11_168_832
    assert sum(p.numel() for p in ResNet(18, "imagenet").parameters()) == 11_689_512 - 513_000


def test_in_eval_mode_an_image_is_encoded_the_same_in_every_batch() -> None:
    encoder = ResNet(18).eval()
    x = images(16, batch=3)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        together = encoder(x).pooled
        alone = torch.cat([encoder(row[None]).pooled for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
