"""Convolutions on small grids: the same layer, the same gradients as torch's own."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from simmim_pl.encoders import FastCNN
from simmim_pl.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.small_grids import WIDEST, Convolution, SmallGrid, small_grids


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    last=st.booleans(),
)
def test_output_and_gradients_equal_torchs(batch, channels, kernel, stride, padding, size, last) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, kernel, stride, padding, bias=False).double()
    if last:
        layer.to(memory_format=torch.channels_last)
    x = torch.randn(batch, channels[0], *size, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    change = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, layer.weight), change)
    found = Convolution.apply(x, layer.weight, stride, padding)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (x, layer.weight), change), gradients)


def trained(encoder: nn.Module, size: int, steps: int = 3) -> dict[str, torch.Tensor]:
    """The encoder's weights after some steps in bfloat16 autocast."""
    torch.manual_seed(0)
    images = torch.rand(steps, 8, 3, size, size)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for image in images:
        with torch.autocast("cpu", torch.bfloat16):
            loss = encoder(image).pooled.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.state_dict()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Sizes of the inputs of layers that take the other way."""
    sizes: list[tuple[int, ...]] = []
    apply = Convolution.apply
    monkeypatch.setattr(Convolution, "apply", lambda x, *rest: sizes.append(tuple(x.shape[-2:])) or apply(x, *rest))
    return sizes


@pytest.mark.parametrize("size", [16, 20, 32])
def test_a_network_learns_the_same_with_them(taken: list[Any], size: int) -> None:
    torch.manual_seed(0)
    plain = FastCNN(4).to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    small_grids(quick)
    assert sum(isinstance(layer, SmallGrid) for layer in quick.modules()) == 10
    theirs, ours = trained(plain, size), trained(quick, size)
    assert taken
    assert theirs.keys() == ours.keys()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-2)


def test_only_small_grids_that_are_trained_in_bfloat16_take_the_other_way(taken: list[Any]) -> None:
    layer, small = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (2 * WIDEST, 2 * WIDEST)
    small_grids(layer)
    with torch.autocast("cpu", torch.bfloat16):
        for size in (small, (small[0] + 1, 4), (4, small[1] + 1)):
            assert layer(torch.rand(1, 3, *size)).dtype == torch.bfloat16
        assert taken == [small]
        with torch.no_grad():
            layer(torch.rand(1, 3, *small))
        layer.requires_grad_(False)(torch.rand(1, 3, *small, requires_grad=True))
        layer.requires_grad_(True).double()(torch.rand(1, 3, *small).double())
    layer.float()(torch.rand(1, 3, *small))
    assert taken == [small]
    layer.bfloat16()(torch.rand(1, 3, *small).bfloat16())
    assert taken == [small, small]


def test_a_methods_encoder_has_them() -> None:
    method = Contrastive(FastCNN(4), ProjectionHead, NTXent(), optimizer=torch.optim.SGD)
    kinds = {type(layer) for layer in method.encoder.modules() if isinstance(layer, nn.Conv2d)}
    assert kinds == {SmallGrid}


def test_layers_of_another_kind_are_left_alone() -> None:
    layers = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 3),  # has a bias
            nn.Conv2d(4, 4, 3, groups=2, bias=False),
            nn.Conv2d(4, 4, 3, dilation=2, bias=False),
            nn.Conv2d(4, 4, 3, padding="same", bias=False),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
            nn.Conv1d(4, 4, 3, bias=False),
        ]
    )
    before = [type(layer) for layer in layers]
    small_grids(layers)
    assert [type(layer) for layer in layers] == before
