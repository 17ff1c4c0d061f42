"""torchvision's own networks take the file with strict=True, and compute what the encoder does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer, resnet18, shufflenet_v2_x0_5

from simmim_pl.contracts import Encoder
from simmim_pl.encoders import NIN, FastCNN, ResNet, Swin, Timm, Torchvision, ViT
from tests.export.conftest import Checkpoint, Run, executed, randomised

CLASS_VIT: dict[str, Any] = {"width": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "pool": "class"}
SWIN: dict[str, Any] = {"width": 12, "depths": [2, 1], "num_heads": [1, 2], "mlp_ratio": 2.0}


def small_resnet() -> nn.Module:
    net = resnet18()
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


# The encoder's class, its arguments, torchvision's network, its classifier.
CASES: dict[str, tuple[type[Encoder], dict[str, Any], Callable[[], nn.Module], str]] = {
    "ResNet of small images": (ResNet, {"mean": (0.1, 0.2, 0.3)}, small_resnet, "fc"),
    "ResNet": (ResNet, {"stem": "imagenet"}, resnet18, "fc"),
    "ViT": (ViT, CLASS_VIT, lambda: VisionTransformer(32, 4, 2, 2, 12, 24), "heads.head"),
    "ViT of fixed positions": (
        ViT,
        CLASS_VIT | {"position": "sincos"},
        lambda: VisionTransformer(32, 4, 2, 2, 12, 24),
        "heads.head",
    ),
    "Swin": (Swin, SWIN, lambda: SwinTransformer([2, 2], 12, [2, 1], [1, 2], [4, 4], 2.0), "head"),
    "torchvision's": (Torchvision, {"name": "shufflenet_v2_x0_5"}, shufflenet_v2_x0_5, "fc"),
}


def features_of(net: nn.Module, classifier: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """What enters a network's classifier, and what leaves it."""
    seen: list[Tensor] = []
    net.get_submodule(classifier).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        logits = net.eval()(image)
    return seen[0], logits


@pytest.mark.parametrize("case", CASES)
def test_torchvisions_network_loads_it_with_strict(
    checkpoint: Checkpoint, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, arguments, make, classifier = CASES[case]
    encoder = randomised(kind(**arguments))
    printed = run(checkpoint(encoder, **arguments), "torchvision", tmp_path / "out", "--size=32")
    assert "the largest difference from the encoder is" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.pth"}
    net = make()
    net.load_state_dict(torch.load(tmp_path / "out/model.pth", weights_only=True), strict=True)
    image = torch.rand(3, 3, 32, 32)
    features, logits = features_of(net, classifier, (image - encoder.mean) / encoder.std)
    with torch.no_grad():
        wanted = encoder(image).pooled
    assert wanted.std() > 0.01
    assert torch.allclose(features, wanted, atol=1e-5)
    assert torch.equal(logits, torch.zeros(3, 1000))
    assert torch.allclose(executed(tmp_path / "out", image, monkeypatch)["pooled"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "arguments", "says"),
    [
        (lambda: FastCNN(2), {"width": 2}, "torchvision has no network like FastCNN."),
        (lambda: NIN(width=6), {"width": 6}, "torchvision has no network like NIN."),
        (
            lambda: ViT(width=12, depth=1),
            {"width": 12, "depth": 1},
            "this ViT: torchvision's pools the class token",
        ),
        (lambda: Timm("test_resnet"), {"name": "test_resnet"}, "torchvision has no network like test_resnet."),
    ],
)
def test_an_encoder_unknown_to_torchvision_is_refused_with_the_formats_that_work(
    checkpoint: Checkpoint, refused: Run, tmp_path: Path, encoder: Any, arguments: dict[str, Any], says: str
) -> None:
    error = refused(checkpoint(encoder(), **arguments), "torchvision", tmp_path / "out", "--size=32")
    assert says in error
    assert error.endswith("Instead export it --to safetensors, torch_export, onnx or hub.\n")


def test_a_network_of_the_same_name_but_other_layers_is_refused(
    checkpoint: Checkpoint, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(Timm("test_resnet"), name="test_resnet")
    monkeypatch.setattr(torchvision.models, "list_models", lambda **where: ["test_resnet"])
    monkeypatch.setattr(torchvision.models, "get_model", lambda name: shufflenet_v2_x0_5())
    assert "its test_resnet has other layers" in refused(path, "torchvision", tmp_path / "out", "--size=32")
