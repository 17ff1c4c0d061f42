"""ViT's tokens equal Hugging Face's with the same weights, at any image size; positions equal MAE's."""

from typing import Any

import pytest
import torch
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from torch import Tensor
from transformers import BeitConfig, BeitModel, ViTConfig, ViTModel

from simmim_pl.contracts import InputError
from simmim_pl.encoders import ViT
from simmim_pl.encoders.relative_position import offset_index
from simmim_pl.runtime.schedule import without_weight_decay

SIZES = {"image_size": 16, "patch_size": 4}
CONFIG = ViTConfig(
    **SIZES, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, layer_norm_eps=1e-6
)


def vit(**options: Any) -> ViT:
    return ViT(**{**SIZES, "width": 8, "depth": 2, "num_heads": 2, "pool": "class", **options})


def of_hugging_face(named: dict[str, Tensor], depth: int = 2) -> dict[str, Tensor]:
    """Weights, or their gradients, under the names of :class:`ViT`; the class token's position has to be zero."""
    positions = named["embeddings.position_embeddings"][0]
    side = round((len(positions) - 1) ** 0.5)
    found = {
        "class_token": named["embeddings.cls_token"].flatten(),
        "position": positions[1:].unflatten(0, (side, side)),
    }
    pairs = {"patches": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    for block in range(depth):
        mine, theirs = f"blocks.{block}", f"layers.{block}"
        pairs[f"{mine}.ln_1"], pairs[f"{mine}.ln_2"] = f"{theirs}.layernorm_before", f"{theirs}.layernorm_after"
        pairs[f"{mine}.mlp.0"], pairs[f"{mine}.mlp.3"] = f"{theirs}.mlp.fc1", f"{theirs}.mlp.fc2"
        pairs[f"{mine}.self_attention.out_proj"] = f"{theirs}.attention.o_proj"
        for kind in ("weight", "bias"):
            parts = [named[f"{theirs}.attention.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{mine}.self_attention.in_proj_{kind}"] = torch.cat(parts)
    return found | {f"{a}.{kind}": named[f"{b}.{kind}"] for a, b in pairs.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("size", [16, 24, 8])
def test_tokens_equal_hugging_face_at_any_size(size: int) -> None:
    torch.manual_seed(0)
    theirs, ours = ViTModel(CONFIG, add_pooling_layer=False).eval(), vit().eval()
    theirs.embeddings.position_embeddings.data[:, 0] = 0
    missing = ours.load_state_dict(of_hugging_face(dict(theirs.named_parameters())), strict=False)
    assert missing.missing_keys == ["mean", "std"]
    image = torch.rand(3, 3, size, size)
    with torch.no_grad():
        expected = theirs(ours.normalize(image), interpolate_pos_encoding=True).last_hidden_state
        found = ours(image)
    torch.testing.assert_close(found.pooled, expected[:, 0], atol=1e-5, rtol=1e-5)
    grid = expected[:, 1:].mT.unflatten(2, (size // 4, size // 4))
    torch.testing.assert_close(found.feature_map, grid, atol=1e-5, rtol=1e-5)


def of_beit(named: dict[str, Tensor], depth: int = 2) -> dict[str, Tensor]:
    """BEiT's weights, or their gradients, under the names of :class:`ViT`; its keys have no bias."""
    found = {} if "embeddings.cls_token" not in named else {"class_token": named["embeddings.cls_token"].flatten()}
    for kind in ("weight", "bias"):
        found[f"patches.{kind}"] = named[f"embeddings.patch_embeddings.projection.{kind}"]
    for block in range(depth):
        mine, theirs = f"blocks.{block}", f"layers.{block}"
        pairs = {"ln_1": "layernorm_before", "ln_2": "layernorm_after", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
        for kind in ("weight", "bias"):
            for a, b in {**pairs, "self_attention.out_proj": "attention.o_proj"}.items():
                found[f"{mine}.{a}.{kind}"] = named[f"{theirs}.{b}.{kind}"]
        parts = [named[f"{theirs}.attention.{part}_proj.weight"] for part in "qkv"]
        found[f"{mine}.self_attention.in_proj_weight"] = torch.cat(parts)
        q, v = (named[f"{theirs}.attention.{part}_proj.bias"] for part in "qv")
        found[f"{mine}.self_attention.in_proj_bias"] = torch.cat([q, torch.zeros_like(q), v])
        table = "relative_position_bias_table"
        found[f"{mine}.{table}"] = named[f"{theirs}.relative_position_bias.{table}"]
    return found


@pytest.mark.parametrize("size", [16, 24, 8])
def test_relative_positions_equal_beit_at_any_size(size: int) -> None:
    torch.manual_seed(0)
    config = BeitConfig(
        **SIZES, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, layer_norm_eps=1e-6,
        layer_scale_init_value=0.0, use_relative_position_bias=True, drop_path_rate=0.0,
    )  # fmt: skip
    theirs, ours = BeitModel(config, add_pooling_layer=False).eval(), vit(position="relative").eval()
    for layer in theirs.layers:
        torch.nn.init.normal_(layer.relative_position_bias.relative_position_bias_table)
    theirs.layernorm = torch.nn.Identity()  # BEiT normalises what it pools, by another module
    missing = ours.load_state_dict(of_beit(dict(theirs.named_parameters())), strict=False)
    assert missing.missing_keys == ["mean", "std", "norm.weight", "norm.bias"]
    assert missing.unexpected_keys == []
    ours.norm = torch.nn.Identity()
    image = torch.rand(3, 3, size, size)
    expected = theirs(ours.normalize(image)).last_hidden_state
    found = ours(image)
    torch.testing.assert_close(found.pooled, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.feature_map.flatten(2).mT, expected[:, 1:], atol=1e-5, rtol=1e-5)
    for features in (found.pooled, expected[:, 0]):
        features.square().sum().backward()
    mine = dict(ours.named_parameters())
    for name, gradient in of_beit({name: weight.grad for name, weight in theirs.named_parameters()}).items():
        if "in_proj_bias" not in name:  # zero for keys except for rounding, and BEiT has none
            torch.testing.assert_close(mine[name].grad, gradient, atol=1e-5, rtol=1e-4)


def test_relative_positions_are_translation_invariant_without_weight_decay() -> None:
    encoder = vit(position="relative", pool="mean")
    tables = [f"blocks.{block}.relative_position_bias_table" for block in range(2)]
    spared = without_weight_decay(encoder)
    assert all(encoder.get_parameter(name) in spared for name in tables)
    assert dict(encoder.named_parameters())[tables[0]].shape == (7 * 7, 2)
    for name in tables:
        torch.nn.init.normal_(encoder.get_parameter(name))
    block, tokens = encoder.blocks[0], torch.rand(1, 3, 8, generator=torch.Generator().manual_seed(0))
    # Three neighbouring patches.
    row, column = (block(tokens, grid, offset_index(*grid, False, tokens.device)) for grid in ((1, 3), (3, 1)))
    assert not torch.allclose(row, column)
    index = offset_index(4, 4, False, tokens.device).view(4, 4, 4, 4)  # query's row and column, key's
    assert torch.equal(index[1:, 1:, 1:, 1:], index[:-1, :-1, :-1, :-1])
    assert len(index.unique()) == 7 * 7
    assert encoder(torch.rand(2, 3, 8, 24)).feature_map.shape == (2, 8, 2, 6)


def test_mean_pooling_is_over_a_feature_map_that_may_be_oblong() -> None:
    encoder = vit(pool="mean", position="sincos")
    features = encoder(torch.rand(2, 3, 8, 24))
    assert features.feature_map.shape == (2, 8, 8 // encoder.stride, 24 // encoder.stride)
    torch.testing.assert_close(features.pooled, features.feature_map.mean((2, 3)))
    assert not any("token" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("side", [4, 7])
def test_fixed_positions_equal_mae(side: int) -> None:
    encoder = vit(image_size=4 * side, position="sincos", width=12)
    expected = get_2d_sine_cosine_positional_embedding(embed_dim=12, grid_size=side, cls_token=False)
    torch.testing.assert_close(encoder.position, torch.from_numpy(expected).float().view(side, side, 12))
    assert "position" not in encoder.state_dict()


@pytest.mark.parametrize("wrong", [{"image_size": 18}, {"width": 9}, {"width": 6, "position": "sincos"}])
def test_indivisible_sizes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has to be a multiple of patch_size"):
        vit(**wrong)


def test_images_not_divisible_into_patches_are_refused() -> None:
    with pytest.raises(InputError, match="Images of 16×18 pixels cannot be cut into patches of 4"):
        vit()(torch.rand(1, 3, 16, 18))
