"""Swin's features equal Hugging Face's with the same weights, with and without shifted windows."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SwinConfig, SwinModel

from simmim_pl.contracts import InputError
from simmim_pl.encoders import Swin


def swin(**options: Any) -> Swin:
    return Swin(**{"patch_size": 2, "width": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4, **options})


def of_hugging_face(named: dict[str, Tensor], depths: tuple[int, ...] = (2, 1)) -> dict[str, Tensor]:
    """Weights, or their gradients, under the names of :class:`Swin`."""
    pairs = {"patches": "embeddings.patch_embeddings.projection", "patches_norm": "embeddings.norm"}
    pairs["norm"], found = "layernorm", {}
    for stage, depth in enumerate(depths):
        if stage:
            merging = (
                f"encoder.layers.{stage - 1}.downsample"  # which Hugging Face has at the end of the previous stage
            )
            found[f"stages.{stage}.0.reduction.weight"] = named[f"{merging}.reduction.weight"]
            pairs[f"stages.{stage}.0.norm"] = f"{merging}.norm"
        for block in range(depth):
            mine, theirs = f"stages.{stage}.{block + (stage > 0)}", f"encoder.layers.{stage}.blocks.{block}"
            pairs[f"{mine}.norm1"], pairs[f"{mine}.norm2"] = f"{theirs}.layernorm_before", f"{theirs}.layernorm_after"
            pairs[f"{mine}.mlp.0"], pairs[f"{mine}.mlp.3"] = f"{theirs}.mlp.fc1", f"{theirs}.mlp.fc2"
            pairs[f"{mine}.attn.proj"], table = f"{theirs}.attention.o_proj", "relative_position_bias_table"
            found[f"{mine}.attn.{table}"] = named[f"{theirs}.attention.relative_position_bias.{table}"]
            for kind in ("weight", "bias"):
                parts = [named[f"{theirs}.attention.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{mine}.attn.qkv.{kind}"] = torch.cat(parts)
    return found | {f"{a}.{kind}": named[f"{b}.{kind}"] for a, b in pairs.items() for kind in ("weight", "bias")}


def test_features_equal_hugging_face() -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 2, "window_size": 4}  # grids of 8, whose windows are shifted, and of 4
    theirs = SwinModel(
        SwinConfig(**sizes, embed_dim=8, depths=[2, 1], num_heads=[2, 4]), add_pooling_layer=False
    ).eval()
    ours = swin().eval()
    missing = ours.load_state_dict(of_hugging_face(dict(theirs.named_parameters())), strict=False)
    assert all(name in ("mean", "std") or name.endswith("position_index") for name in missing.missing_keys)
    image = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        found, expected = ours(image), theirs(ours.normalize(image)).last_hidden_state
    torch.testing.assert_close(found.feature_map.flatten(2).mT, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, expected.mean(1), atol=1e-5, rtol=1e-5)


def test_feature_maps_of_any_image_size_have_the_stride() -> None:
    encoder = swin(depths=(1, 1, 1), num_heads=(1, 2, 2))
    assert encoder(torch.rand(2, 3, 24, 40)).feature_map.shape == (2, encoder.embed_dim, 3, 5) == (2, 32, 3, 5)
    assert encoder.stride == 8


def test_stochastic_depth_grows_from_the_first_block_to_the_last() -> None:
    encoder = swin(depths=(2, 1), stochastic_depth=0.4)
    found = [part.stochastic_depth.p for part in encoder.modules() if hasattr(part, "stochastic_depth")]
    assert found == pytest.approx([0, 0.2, 0.4])


def test_heads_that_do_not_fit_the_stages_are_refused() -> None:
    for heads in [(2,), (2, 3)]:
        with pytest.raises(InputError, match=r"the widths are \[8, 16\], and num_heads is"):
            swin(num_heads=heads)
