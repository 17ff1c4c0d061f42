"""The same network in another library: what makes it there, and the encoder's tensors by its names there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor, nn

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import ResNet
from simmim_pl.runtime.weight_names import rename_part

# The stem of a ResNet for small images, by the names that torchvision and timm have in common.
SMALL_STEM = "net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()"
OTHERS = "export it --to safetensors, torch_export, onnx or hub."


@dataclass(frozen=True)
class Counterpart:
    """A network of another library.

    Attributes:
        make: Python expression that makes it.
        state: tensors of the encoder under the library's names, without a classifier.
        classifier: path of its classifier, a linear layer; empty if it was made without one.
        change: line that changes ``net`` afterwards, or none.
        name: by which the library makes it, where ``make`` does it so.
        options: the arguments for that.
    """

    make: str
    state: dict[str, Tensor]
    classifier: str = ""
    change: str = ""
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def renamed(encoder: nn.Module, rules: Mapping[str, str]) -> dict[str, Tensor]:
    """The encoder's tensors but mean and std, with regular expressions in their names replaced, in order."""
    found = {}
    for name, tensor in encoder.state_dict().items():
        for pattern, new in rules.items():
            name = re.sub(pattern, new, name)
        if name not in ("mean", "std"):
            found[name] = tensor
    return found


def resnet_tensors(encoder: ResNet, library: str) -> dict[str, Tensor]:
    """A ResNet's tensors under the names that torchvision and timm have in common."""
    if encoder.pool > 1:
        refuse("this ResNet", library, f"{library}'s averages the whole feature map, not a grid of cells")
    way = dict(zip(dict(encoder.net.named_children()), encoder.published, strict=True))
    return {rename_part(name, way): each for name, each in encoder.state_dict().items() if name.startswith("net.")}


def require_same(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], name: str, library: str) -> None:
    """Raise :class:`InputError` unless all names and shapes of two state dicts agree."""
    if {key: each.shape for key, each in own.items()} != {key: each.shape for key, each in theirs.items()}:
        refuse(name, library, f"its {name} has other layers")


def require_rgb(encoder: Encoder, library: str) -> None:
    """Raise :class:`InputError` unless the images have three channels, as those of the library's networks."""
    if len(encoder.mean) != 3:
        refuse(type(encoder).__name__, library, "its images are not RGB")


def refuse(name: str, library: str, why: str = "") -> NoReturn:
    """Raise :class:`InputError`: the library has no such network."""
    raise InputError(f"{library} has no network like {name}{f': {why}' if why else ''}. Instead {OTHERS}")


def refuse_kind(encoder: Encoder, library: str) -> NoReturn:
    """Raise :class:`InputError` for a class of encoders of which the library has none."""
    refuse(type(encoder).__name__, library)


def listed(numbers: Iterable[int]) -> str:
    """Numbers as a list in Python's source."""
    return str([int(each) for each in numbers])
