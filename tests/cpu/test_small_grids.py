"""Convolutions on small grids: outputs and gradients equal torch's."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.cpu import small_grids as page
from simmim_pl.cpu.small_grids import (
    SmallGridConv2d,
    convert_small_grids,
    convolution,
    max_grid,
    max_grid_of_weight_gradient,
)
from simmim_pl.encoders import FastCNN
from simmim_pl.methods import Contrastive
from tests.conftest import TINY


@st.composite
def layers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], tuple[int, int]]:
    """Images, weights, stride and padding of a random plain convolution."""
    kernel = draw(st.tuples(*[st.integers(1, 5)] * 2))
    stride = draw(st.tuples(*[st.integers(1, 3)] * 2))
    padding = draw(st.tuples(*[st.integers(0, taps - 1) for taps in kernel]))
    sizes = (st.integers(max(1, k - 2 * pad), 10) for k, pad in zip(kernel, padding, strict=True))
    batch, before, after = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    x, weight = torch.randn(batch, before, *draw(st.tuples(*sizes))), torch.randn(after, before, *kernel)
    last = torch.channels_last if draw(st.booleans()) else torch.contiguous_format
    x, weight = (part.double().contiguous(memory_format=last).requires_grad_() for part in (x, weight))
    return x, weight, stride, padding


@contextmanager
def up_to(widest: int) -> Iterator[None]:
    """Use products on grids up to this width, for any number of channels."""
    with (
        patch.object(page, "max_grid", lambda _: widest),
        patch.object(page, "max_grid_of_weight_gradient", lambda _: widest),
    ):
        yield


@settings(deadline=None, max_examples=200)
@given(layers(), st.sampled_from([0, 4, 10]))
def test_output_and_gradients_equal_torchs(layer: Any, widest: int) -> None:
    x, weight, stride, padding = layer
    expected = F.conv2d(x, weight, None, stride, padding)
    change = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, weight), change)
    with up_to(widest):
        found = convolution(x, weight, stride, padding)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, (x, weight), change), gradients)


@settings(deadline=None, max_examples=8)
@given(layers(), st.sampled_from([0, 10]))
def test_the_operators_pass_torchs_opcheck(layer: Any, widest: int) -> None:
    x, weight, *geometry = layer
    with up_to(widest):
        torch.library.opcheck(convolution, (x, weight, *geometry))
        known = (convolution(x, weight, *geometry).detach(), x.detach(), weight.detach(), *geometry)
        torch.library.opcheck(page.convolution_grad_input, known)  # includes the strides for torch.compile
        torch.library.opcheck(page.convolution_grad_weight, known)


def test_few_channels_use_torchs_convolution() -> None:
    weights = [torch.empty(channels, channels, 3, 3) for channels in (32, 128, 256, 2048)]
    sizes = [(max_grid(weight), max_grid_of_weight_gradient(weight)) for weight in weights]
    assert sizes == [(0, 1), (2, 4), (4, 8), (4, 8)]


def test_products_contain_no_padding() -> None:
    inside = sum(0 <= y + j < 4 and 0 <= z + k < 4 for y, z, j, k in product(range(4), range(4), *[(-1, 0, 1)] * 2))
    with FlopCounterMode(display=False) as counter:
        page.convolve(torch.randn(8, 3, 4, 4), torch.randn(3, 3, 3, 5), (1, 1), (1, 1))
    assert counter.get_total_flops() == 2 * 8 * 3 * 5 * inside  # 100 of the 144 that a convolution computes


def trained(encoder: nn.Module, size: int, low: bool, steps: int = 3) -> torch.Tensor:
    """The encoder's weights after some steps, in bfloat16 autocast or float32."""
    torch.manual_seed(0)
    images = torch.rand(steps, 8, 3, size, size)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for image in images:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = encoder(image).pooled.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in encoder.parameters()])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Input sizes of the layers that use products."""
    sizes: list[tuple[int, ...]] = []

    def noted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(tuple(x.shape[-2:]))
        found: torch.Tensor = convolution(x, *rest)
        return found

    monkeypatch.setattr(page, "convolution", noted)
    return sizes


@pytest.mark.parametrize("size", [16, 20, 32])
def test_a_network_learns_the_same_with_small_grid_products(taken: list[Any], size: int) -> None:
    torch.manual_seed(0)
    plain = FastCNN(32).to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    convert_small_grids(quick)
    assert sum(isinstance(layer, SmallGridConv2d) for layer in quick.modules()) == 10
    exact = trained(copy.deepcopy(plain), size, low=False)
    theirs, ours = ((trained(encoder, size, low=True) - exact).norm() for encoder in (plain, quick))
    assert taken
    assert ours < 1.1 * theirs  # no further from float32 than torch's bfloat16


def test_only_small_grids_trained_in_bfloat16_use_products(taken: list[Any]) -> None:
    with up_to(5):
        layer, small = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (10, 10)
        convert_small_grids(layer)
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


def test_other_layers_are_not_converted() -> None:
    layers = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 3),  # has a bias
            nn.Conv2d(4, 4, 3, groups=2, bias=False),
            nn.Conv2d(4, 4, 3, dilation=2, bias=False),
            nn.Conv2d(4, 4, 3, padding="same", bias=False),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
            nn.Conv2d(4, 4, 1, padding=1, bias=False),  # some outputs see only padding
            nn.Conv1d(4, 4, 3, bias=False),
        ]
    )
    before = [type(layer) for layer in layers]
    convert_small_grids(layers)
    assert [type(layer) for layer in layers] == before


@pytest.mark.parametrize(("precision", "taken"), [("32-true", 0), ("64-true", 0), ("bf16-mixed", 10)])
def test_layers_change_their_class_only_where_a_cpu_trains_in_bfloat16(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch, precision: str, taken: int
) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr(Contrastive, "on_train_end", lambda self: seen.extend(self.modules()))
    cli([*TINY, f"--trainer.precision={precision}", "--trainer.max_steps=1"])
    assert sum(isinstance(layer, nn.Conv2d) for layer in seen) > 9
    assert sum(isinstance(layer, SmallGridConv2d) for layer in seen) == taken
