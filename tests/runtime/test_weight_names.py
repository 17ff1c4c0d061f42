"""Files of other tools: an encoder with their weights computes the same as their network, or they are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightly.models import ResNetGenerator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import regnet_y_400mf, resnet18, resnet34, resnet50

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import FastCNN, ResNet, Timm, Torchvision
from simmim_pl.runtime.weight_names import find_state_dicts
from simmim_pl.runtime.weights import load_weights

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SMALL = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(net: nn.Module) -> nn.Module:
    """A network with different BatchNorm statistics and scales in every layer."""
    torch.manual_seed(1)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return net.eval()


def children(net: nn.Module) -> nn.Sequential:
    """A backbone as in lightly's examples and many others."""
    return nn.Sequential(*list(net.children())[:-1])


def cifar(net: nn.Module) -> nn.Module:
    """torchvision's ResNet with the usual stem for small images."""
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def pooled(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's pooled features, before its classifier."""

    def run(image: Tensor) -> Tensor:
        if isinstance(net, nn.Sequential):
            return net(image).flatten(1)
        setattr(net, "fc" if hasattr(net, "fc") else "linear", nn.Identity())
        return net(image)

    return run


IMAGENET = {"stem": "imagenet", **PLAIN}
# The network, its saved state, and the encoder that should be equal.
SOURCES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Encoder]]] = {
    "torchvision's names in ours": (lambda: resnet18(), lambda: ResNet(18, **IMAGENET)),
    "the same of 50 layers": (lambda: resnet50(), lambda: ResNet(50, **IMAGENET)),
    "the same of small images": (lambda: cifar(resnet18()), lambda: ResNet(18, **PLAIN)),
    "children in ours": (lambda: children(resnet18()), lambda: ResNet(18, **IMAGENET)),
    "children in torchvision's": (lambda: children(resnet18()), lambda: Torchvision("resnet18", **PLAIN)),
    "children of another network": (
        lambda: children(regnet_y_400mf()),
        lambda: Torchvision("regnet_y_400mf", **PLAIN),
    ),
    "children of small images": (lambda: children(cifar(resnet34())), lambda: ResNet(34, **PLAIN)),
    "children in timm's": (lambda: children(resnet18()), lambda: Timm("resnet18", **PLAIN)),
    "lightly's in ours": (lambda: ResNetGenerator("resnet-18"), lambda: ResNet(18, **PLAIN)),
    "lightly's of 50 layers": (lambda: ResNetGenerator("resnet-50"), lambda: ResNet(50, **PLAIN)),
}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("case", SOURCES)
def test_the_encoder_computes_the_same_as_the_network(tmp_path: Path, case: str, prefix: str) -> None:
    make, encode = SOURCES[case]
    net = trained(make())
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({**state, "projection.0.weight": torch.ones(8, 512)}, tmp_path / "x.pth")
    encoder = encode().eval()
    left = load_weights(encoder, tmp_path / "x.pth")
    assert "projection.0.weight" in left
    assert {name.removeprefix(prefix).split(".")[0] for name in left} <= {"projection", "fc", "linear"}
    with torch.no_grad():
        features, expected = encoder(SMALL).pooled, pooled(net)(SMALL)
    assert F.cosine_similarity(features, expected).min() > 0.999999
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "encode", "says"),
    [
        (resnet34, lambda: ResNet(18, stem="imagenet"), r"at layer1.2.conv1.weight .* the encoder has no such layer"),
        (resnet34, lambda: Torchvision("resnet18"), r"at layer1.2.conv1.weight .* no such layer"),
        (lambda: children(resnet34()), lambda: ResNet(18, stem="imagenet"), r"at 4.2.conv1.weight .* no such layer"),
        (
            resnet18,
            lambda: ResNet(18),
            r"at conv1.weight it has \(64, 3, 7, 7\), the encoder's net.0.weight is \(64, 3, 3, 3\)",
        ),
        (resnet18, lambda: ResNet(50, stem="imagenet"), r"x.pth does not fit the encoder"),
        (lambda: FastCNN(2, features=16), lambda: FastCNN(2), r"at net.10.0.weight .* no such layer"),
        (lambda: children(resnet18())[4:], lambda: ResNet(18, stem="imagenet"), "does not fit the encoder"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 64, 7), *children(resnet18())),
            lambda: ResNet(18, stem="imagenet"),
            "does not fit",
        ),
    ],
)
def test_another_network_with_similar_names_and_shapes_is_refused(
    tmp_path: Path, make: Callable[[], nn.Module], encode: Callable[[], Encoder], says: str
) -> None:
    torch.save(make().state_dict(), tmp_path / "x.pth")
    encoder = encode()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(InputError, match=says) as error:
        load_weights(encoder, tmp_path / "x.pth")
    first = [next(iter(make().state_dict())), "the encoder needs net."]
    assert all(name in str(error.value) for name in first), "a few names of both sides"
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_sequence_without_its_relu_is_refused(tmp_path: Path) -> None:
    backbone = nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1))
    torch.save(backbone.state_dict(), tmp_path / "x.pth")  # lightly's network uses a functional ReLU
    with pytest.raises(InputError, match="does not fit the encoder"):
        load_weights(ResNet(18), tmp_path / "x.pth")


def test_tensors_of_equal_shape_are_not_swapped(tmp_path: Path) -> None:
    state = FastCNN(2).state_dict()
    names = list(state)
    swapped = {**state, "net.3.branch.0.0.weight": state["net.3.branch.1.weight"]}  # by the name, any would fit
    shifted = {name.replace("net.", "net.1"): state[name] for name in names}
    for other in (shifted, {f"{i}": state[name] for i, name in enumerate(names)}):
        torch.save(other, tmp_path / "x.pth")
        with pytest.raises(InputError, match="does not fit the encoder"):
            load_weights(FastCNN(2), tmp_path / "x.pth")
    torch.save(swapped, tmp_path / "x.pth")
    assert load_weights(FastCNN(2), tmp_path / "x.pth") == []


def networks() -> dict[str, Any]:
    """Two networks of one architecture, as saved by DINO and others."""
    student, teacher = (trained(FastCNN(2)).state_dict(), {n: t + 1 for n, t in FastCNN(2).state_dict().items()})
    return {
        "student": {f"module.backbone.{name}": tensor for name, tensor in student.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in teacher.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "epoch": 3,
    }


def test_one_of_several_networks_is_selected_by_its_key(tmp_path: Path) -> None:
    path, content = tmp_path / "x.pth", networks()
    torch.save(content, path)
    with pytest.raises(
        InputError, match=rf"fit the encoder, under student, teacher: .* --model.weights {path}:student"
    ):
        load_weights(FastCNN(2), path)
    for key in ("student", "teacher"):
        encoder = FastCNN(2)
        load_weights(encoder, f"{path}:{key}")
        (wanted,) = [tensor for name, tensor in content[key].items() if name.endswith("net.0.0.weight")]
        assert torch.equal(encoder.net[0][0].weight, wanted)
    with pytest.raises(
        InputError, match=r"does not fit .* its keys with tensors are student, teacher; the encoder needs"
    ):
        load_weights(FastCNN(2), f"{path}:optimizer")
    with pytest.raises(InputError, match="There is no checkpoint"):
        load_weights(FastCNN(2), f"{tmp_path / 'y.pth'}:student")


@pytest.mark.parametrize("key", ["teacher", "net", "a.b", "model", "state_dict"])
def test_the_only_fitting_network_is_used_wherever_it_is(tmp_path: Path, key: str) -> None:
    source, content = FastCNN(2), {"other": {"weight": torch.ones(3)}}
    outer, _, inner = key.partition(".")
    content[outer] = {inner: source.state_dict()} if inner else source.state_dict()
    torch.save(content, tmp_path / "x.pth")
    encoder = FastCNN(2)
    assert load_weights(encoder, tmp_path / "x.pth") == []
    assert torch.equal(encoder.net[0][0].weight, source.net[0][0].weight)


def test_the_error_names_the_available_keys(tmp_path: Path) -> None:
    torch.save(networks(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"with tensors are student, teacher; the encoder needs net.0.weight"):
        load_weights(ResNet(18), tmp_path / "x.pth")


def test_state_dicts_are_found_by_their_keys() -> None:
    row = torch.zeros(1)
    content = {"a": row, "b": {"c": row, "d": {"e": row, 3: row}}, "f": [row], 4: {"x": row}}
    assert {key: list(table) for key, table in find_state_dicts(content).items()} == {
        "": ["a"],
        "b": ["c"],
        "b.d": ["e"],
    }
