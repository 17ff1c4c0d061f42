"""FastCNN: shapes, pooling, FLOP, and residual blocks."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.encoders import FastCNN, ResNet
from simmim_pl.encoders.fastcnn import ResidualBlock

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("size", [8, 16, 20, 32, 47])
def test_features_are_eight_times_the_width_and_the_stride_is_eight(width: int, size: int) -> None:
    encoder = FastCNN(width)
    features = encoder(images(size))
    assert encoder.embed_dim == 8 * width
    assert features.feature_map.shape == (2, 8 * width, size // 8, size // 8)
    torch.testing.assert_close(features.pooled, F.adaptive_avg_pool2d(features.feature_map, 1).flatten(1))


def test_images_may_be_oblong() -> None:
    assert FastCNN(4)(torch.rand(2, 3, 16, 40)).feature_map.shape == (2, 32, 2, 5)


def test_more_features_than_stage_channels_cost_few_flop() -> None:
    counted = []
    for encoder in (FastCNN(8), FastCNN(8, features=256)):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            features = encoder.eval()(images(32))
        assert features.pooled.shape == (2, encoder.embed_dim)
        assert features.feature_map.shape == (2, encoder.embed_dim, 4, 4)
        counted.append(counter.get_total_flops())
    assert encoder.embed_dim == 256
    assert counted[1] - counted[0] == 2 * 2 * 64 * 256 * 4 * 4  # two images, a multiplication and an addition


def test_the_flop_equal_the_docstring() -> None:
    counted = []
    for encoder in (FastCNN(32), ResNet(18)):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            encoder.eval()(images(32, batch=1))
        counted.append(counter.get_total_flops() / 1e9)
    assert counted == pytest.approx([0.2, 1.1], rel=0.05)


def test_normalisation_is_saved_with_the_weights_and_used_first() -> None:
    encoder, x = FastCNN(4, MEAN, STD).eval(), images(16)
    state = encoder.state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx(MEAN)
    assert state["std"].flatten().tolist() == pytest.approx(STD)
    normalised = torchvision.transforms.functional.normalize(x, MEAN, STD)
    torch.testing.assert_close(encoder(x).feature_map, encoder.net(normalised))
    other = FastCNN(4).eval()
    other.load_state_dict(state)
    assert torch.equal(other(x).pooled, encoder(x).pooled)


def test_in_eval_mode_an_image_is_encoded_the_same_in_every_batch() -> None:
    encoder, x = FastCNN(8), images(32, batch=5)
    encoder(x)  # running statistics of its own
    encoder.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    alone = torch.cat([encoder(row[None]).pooled for row in x])
    torch.testing.assert_close(encoder(x).pooled, alone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_residual_block_with_a_zero_branch_is_the_relu_of_its_input() -> None:
    block, x = ResidualBlock(3), torch.randn(2, 3, 4, 4)
    expected = x.relu()
    nn.init.zeros_(block.branch[-1].weight)
    torch.testing.assert_close(block(x), expected)


def test_a_residual_block_equals_its_formula() -> None:
    block, x = ResidualBlock(3).eval(), torch.randn(2, 3, 4, 4)
    one, two = (module.weight for module in block.modules() if isinstance(module, nn.Conv2d))
    scale = (1 + 1e-5) ** -0.5  # of a new BatchNorm in eval mode
    inner = (scale * F.conv2d(x, one, padding=1)).relu()
    torch.testing.assert_close(block(x), (x + scale * F.conv2d(inner, two, padding=1)).relu())


def test_every_parameter_receives_a_gradient() -> None:
    encoder = FastCNN(4)
    encoder(images(16, batch=4)).pooled.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
