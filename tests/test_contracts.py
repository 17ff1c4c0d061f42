"""Abstract base classes refuse an incomplete part; the default layers of an encoder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from simmim_pl.contracts import Encoder, MaskableEncoder, Views
from simmim_pl.encoders import FastCNN, ResNet, Swin, Timm, Torchvision, ViT
from simmim_pl.evaluation.protocols.knn import knn_scores
from simmim_pl.losses import Loss
from simmim_pl.losses.nt_xent import nt_xent
from simmim_pl.runtime.unit_norm import unit

LAYERS = {
    "fastcnn": (lambda: FastCNN(2), [f"net.{place}" for place in (0, 2, 3, 4, 6, 7, 9)]),
    "resnet": (lambda: ResNet(18), [f"net.{place}" for place in (0, 4, 5, 6, 7)]),
    "torchvision's resnet": (
        lambda: Torchvision("resnet50"),
        ["net.conv1", *(f"net.layer{stage}" for stage in (1, 2, 3, 4))],
    ),
    "a classifier of its own": (
        lambda: Torchvision("mobilenet_v3_small"),
        [f"net.features.{place}" for place in range(13)],
    ),
    "a transformer": (
        lambda: Timm("test_vit"),
        [f"net.blocks.{block}" for block in range(6)],
    ),
    "ours": (lambda: ViT(width=8, depth=3, num_heads=1), [f"blocks.{block}" for block in range(3)]),
    "our stages": (lambda: Swin(2, 8, (1, 2, 1), (1, 1, 1)), [f"stages.{stage}" for stage in range(3)]),
    "stages": (lambda: Timm("convnext_atto"), [f"net.stages.{stage}" for stage in range(4)]),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_the_stages_or_blocks(case: str) -> None:
    make, expected = LAYERS[case]
    encoder: Encoder = make()
    assert encoder.layers() == expected
    assert all(encoder.get_submodule(name) for name in expected)


@pytest.mark.parametrize("contract", [Encoder, MaskableEncoder, Views, Loss])
def test_a_part_without_forward_cannot_be_instantiated(contract: type) -> None:
    with pytest.raises(TypeError, match=r"abstract method '?forward'?"):
        type("Half", (contract,), {})()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FastCNN(2)(torch.rand(3, 16, 16)),  # no batch
        lambda: nt_xent(torch.rand(2, 4)),
        lambda: knn_scores(torch.rand(5, 3), torch.arange(4), torch.rand(2, 3), classes=5, k=1),  # 5 rows, 4 labels
        lambda: unit(torch.arange(4)),
    ],
)
def test_a_wrong_shape_is_an_error_in_the_tests(wrong: Callable[[], Any]) -> None:
    with pytest.raises(TypeCheckError):  # by the import hook of conftest.py
        wrong()
