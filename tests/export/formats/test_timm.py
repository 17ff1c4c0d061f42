"""timm's own networks take the file with strict=True, and compute what the encoder does."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import FastCNN, ResNet, Swin, Timm, Torchvision, ViT
from simmim_pl.export.formats.timm import same_name
from tests.export.conftest import Checkpoint, Run, executed, randomised

VIT: dict[str, Any] = {"width": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TIMMS_VIT: dict[str, Any] = {
    **{"model_name": "vit_base_patch16_224", "img_size": 32, "patch_size": 4, "embed_dim": 12, "depth": 2},
    **{"num_heads": 2, "mlp_ratio": 2.0},
}
MEAN = {"class_token": False, "global_pool": "avg", "fc_norm": False}
SWIN: dict[str, Any] = {"width": 12, "depths": [2, 2], "num_heads": [1, 2], "mean": (0.1, 0.2, 0.3)}
TIMMS_SWIN: dict[str, Any] = {
    **{"model_name": "swin_base_patch4_window7_224", "img_size": 32, "patch_size": 2, "window_size": 4},
    **{"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)},
}
# The encoder's class, its arguments, and how timm makes the network.
CASES: dict[str, tuple[type[Encoder], dict[str, Any], dict[str, Any]]] = {
    "ResNet of small images": (ResNet, {}, {"model_name": "resnet18"}),
    "ViT of a class token": (ViT, VIT | {"pool": "class"}, TIMMS_VIT),
    "ViT of a mean": (ViT, VIT | {"position": "sincos"}, TIMMS_VIT | MEAN),
    "Swin": (Swin, SWIN, TIMMS_SWIN),
    "timm's": (Timm, {"name": "test_vit"}, {"model_name": "test_vit"}),
    "torchvision's": (Torchvision, {"name": "resnet18"}, {"model_name": "resnet18"}),
}


@pytest.mark.parametrize("case", CASES)
def test_timms_network_loads_it_with_strict(
    checkpoint: Checkpoint, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, arguments, how = CASES[case]
    encoder, size = randomised(kind(**arguments)), 160 if kind is Timm else 32
    run(checkpoint(encoder, **arguments), "timm", tmp_path / "out", f"--size={size}")
    net = timm.create_model(**how, pretrained=False, num_classes=0)
    if small := kind is ResNet:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    net.load_state_dict(load_file(tmp_path / "out/model.safetensors"), strict=True)
    image = torch.rand(3, 3, size, size)
    with torch.no_grad():
        found, wanted = net.eval()((image - encoder.mean) / encoder.std), encoder(image).pooled
    assert wanted.std() > 0.01
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(executed(tmp_path / "out", image, monkeypatch)["pooled"], wanted, atol=1e-5)
    assert (tmp_path / "out/config.json").exists() != small
    if not small:  # timm's own way to a folder, and to the hub
        alone = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        assert all(torch.equal(each, net.state_dict()[name]) for name, each in alone.state_dict().items())
        assert tuple(alone.pretrained_cfg["input_size"]) == (3, size, size)
        assert torch.allclose(torch.tensor(alone.pretrained_cfg["mean"]), encoder.mean.flatten())


@pytest.mark.parametrize(
    ("encoder", "arguments", "says"),
    [
        (lambda: FastCNN(2), {"width": 2}, "timm has no network like FastCNN."),
        (
            lambda: ViT(width=12, depth=1, position="relative"),
            {"width": 12, "depth": 1, "position": "relative"},
            "timm has no network like this ViT: timm's has no biases by relative position like these.",
        ),
    ],
)
def test_an_encoder_unknown_to_timm_is_refused_with_the_formats_that_work(
    checkpoint: Checkpoint, refused: Run, tmp_path: Path, encoder: Any, arguments: dict[str, Any], says: str
) -> None:
    error = refused(checkpoint(encoder(), **arguments), "timm", tmp_path / "out", "--size=32")
    assert says in error
    assert error.endswith("Instead export it --to safetensors, torch_export, onnx or hub.\n")


def test_a_missing_or_different_timm_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"timm has no network like shufflenet_v2_x0_5\."):
        same_name(FastCNN(2), "shufflenet_v2_x0_5")
    with pytest.raises(InputError, match="timm has no network like test_resnet: its test_resnet has other layers"):
        same_name(FastCNN(2), "test_resnet")
