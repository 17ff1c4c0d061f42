"""Attention in float32 on a CPU: outputs and gradients equal torch's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from simmim_pl.cpu import attention as attended
from simmim_pl.cpu.attention import Float32Attention, convert_attention
from simmim_pl.methods import Contrastive
from tests.conftest import TINY


def pair(heads: int = 2, channels: int = 4, **options: Any) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    """torch's layer, and a converted copy."""
    torch.manual_seed(0)
    own = nn.MultiheadAttention(heads * channels, heads, **{"batch_first": True} | options)
    nn.init.normal_(own.in_proj_bias)
    ours = copy.deepcopy(own)
    convert_attention(ours)
    return own, ours


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_output_and_gradients_equal_torchs(batch: int, tokens: int, heads: int, channels: int) -> None:
    layers = pair(heads, channels)
    assert type(layers[1]) is Float32Attention
    x = torch.randn(batch, tokens, heads * channels, generator=torch.Generator().manual_seed(1))
    found = []
    for layer in layers:
        image = x.clone().requires_grad_()
        out, weights = layer(image, image, image, need_weights=False)
        assert weights is None
        out.square().sum().backward()
        found.append([out, image.grad, *(parameter.grad for parameter in layer.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_under_autocast_it_is_as_close_to_float32_as_torchs() -> None:
    own, ours = pair(4, 16)
    x = torch.randn(8, 50, 64, generator=torch.Generator().manual_seed(1))
    exact = own(x, x, x, need_weights=False)[0]
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = (layer(x, x, x, need_weights=False)[0].float() for layer in (own, ours))
    assert (mine - exact).norm() <= 1.05 * (theirs - exact).norm()
    assert (mine - exact).norm() > 0  # its linear layers are autocast's


def test_products_of_tokens_are_in_float32_and_layers_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair()
    kinds: list[torch.dtype] = []
    attention = attended.F.scaled_dot_product_attention

    def noted(*parts: torch.Tensor, **options: Any) -> torch.Tensor:
        found: torch.Tensor = attention(*parts, **options)
        kinds.extend(part.dtype for part in (*parts, found))
        return found

    monkeypatch.setattr(attended.F, "scaled_dot_product_attention", noted)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(x, x, x, need_weights=False)[0]
    assert kinds == [torch.float32] * 4
    assert out.dtype == torch.bfloat16


def test_weights_in_bfloat16_are_supported() -> None:
    own, ours = (layer.bfloat16() for layer in pair())
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    theirs, mine = (layer(x, x, x, need_weights=False)[0] for layer in (own, ours))
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0.02)


def test_unsupported_inputs_use_torchs_attention() -> None:
    own, ours = pair()
    own.eval(), ours.eval()
    x, other = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for args, options in (
        ((x, other, other), {"need_weights": False}),
        ((x, x, x), {}),
        ((x, x, x), {"need_weights": False, "attn_mask": mask}),
        ((x[0], x[0], x[0]), {"need_weights": False}),
    ):
        theirs, mine = (layer(*args, **options) for layer in (own, ours))
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("options", [{"batch_first": False}, {"kdim": 3}])
def test_a_layer_of_another_layout_is_not_converted(options: dict[str, Any]) -> None:
    assert type(pair(**options)[1]) is nn.MultiheadAttention


@pytest.mark.parametrize(("precision", "taken"), [("32-true", 0), ("bf16-mixed", 1)])
def test_layers_change_their_class_only_where_a_cpu_trains_in_bfloat16(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch, precision: str, taken: int
) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr(Contrastive, "on_train_end", lambda self: seen.extend(self.modules()))
    vit = ["--model.encoder=simmim_pl.encoders.ViT", *(f"--model.encoder.{key}" for key in ("width=8", "depth=1"))]
    small = [word for word in TINY if "encoder" not in word]
    cli([*small, *vit, "--model.encoder.num_heads=2", f"--trainer.precision={precision}", "--trainer.max_steps=1"])
    assert sum(isinstance(layer, nn.MultiheadAttention) for layer in seen) == 1
    assert sum(isinstance(layer, Float32Attention) for layer in seen) == taken
