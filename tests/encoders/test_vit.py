"""ViT's tokens are those of Hugging Face's ViT with the same weights, at any image size; positions are MAE's."""

from typing import Any

import pytest
import torch
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from torch import Tensor
from transformers import ViTConfig, ViTModel

from simmim_pl.contracts import InputError
from simmim_pl.encoders import ViT

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
def test_tokens_are_those_of_hugging_face_at_any_size(size: int) -> None:
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


def test_a_mean_is_that_of_the_feature_map_which_may_be_oblong() -> None:
    encoder = vit(pool="mean", position="sincos")
    features = encoder(torch.rand(2, 3, 8, 24))
    assert features.feature_map.shape == (2, 8, 8 // encoder.stride, 24 // encoder.stride)
    torch.testing.assert_close(features.pooled, features.feature_map.mean((2, 3)))
    assert not any("token" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("side", [4, 7])
def test_fixed_positions_are_those_of_mae(side: int) -> None:
    encoder = vit(image_size=4 * side, position="sincos", width=12)
    expected = get_2d_sine_cosine_positional_embedding(embed_dim=12, grid_size=side, cls_token=False)
    torch.testing.assert_close(encoder.position, torch.from_numpy(expected).float().view(side, side, 12))
    assert "position" not in encoder.state_dict()


@pytest.mark.parametrize("wrong", [{"image_size": 18}, {"width": 9}, {"width": 6, "position": "sincos"}])
def test_sizes_that_do_not_divide_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has to be a multiple of patch_size"):
        vit(**wrong)


def test_images_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="Images of 16×18 pixels cannot be cut into patches of 4"):
        vit()(torch.rand(1, 3, 16, 18))
