"""A state dict that torchvision's own networks load with ``strict=True``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor

from simmim_pl import encoders
from simmim_pl.contracts import Encoder
from simmim_pl.encoders.torchvision import last_linear
from simmim_pl.export.formats.counterpart import (
    SMALL_STEM,
    Counterpart,
    listed,
    refuse,
    refuse_kind,
    renamed,
    require_rgb,
    require_same,
    resnet_tensors,
)
from simmim_pl.export.formats.format import Format, normalize, quoted
from simmim_pl.export.pretrained import Pretrained
from simmim_pl.runtime import atomic

CLASSES = 1000  # of torchvision's networks, unless they are told otherwise
VIT_NAMES = {
    r"^patches\.": "conv_proj.",
    r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
    r"^norm\.": "encoder.ln.",
    r"^position$": "encoder.pos_embedding",
}


class Torchvision(Format):
    """torchvision's names, for the network of torchvision that is the same; its classifier is zeros."""

    file = "model.pth"
    library = "torchvision"

    def __init__(self, pretrained: Pretrained, images: Float[Tensor, "B C S S"]) -> None:
        super().__init__(pretrained, images)
        require_rgb(pretrained.encoder, "torchvision")
        self.found = counterpart(pretrained)
        self.imports = ("torch", "torchvision")
        self.said = (
            "torchvision's networks do not normalise their input: the last line does it.",
            f"`strict=True` demands torchvision's classifier (`{self.found.classifier}`), and none was trained: its "
            "weights are zeros, and a line removes it.",
        )

    def write(self, folder: Path) -> None:
        width = self.pretrained.encoder.embed_dim
        zeros = {"weight": torch.zeros(CLASSES, width), "bias": torch.zeros(CLASSES)}
        state = self.found.state | {f"{self.found.classifier}.{name}": each for name, each in zeros.items()}
        state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        atomic.write(folder / self.file, lambda file: torch.save(state, file))

    def load(self, file: str) -> list[str]:
        return [
            f"net = {self.found.make}.eval()",
            *filter(None, [self.found.change]),
            f"net.load_state_dict(torch.load({file}, weights_only=True), strict=True)",
            f"net.set_submodule({quoted(self.found.classifier)}, torch.nn.Identity())",
        ]

    @property
    def run(self) -> list[str]:
        return [f"pooled = net({normalize(self.pretrained)})"]


def counterpart(pretrained: Pretrained) -> Counterpart:
    """torchvision's network that is the same. Raises :class:`InputError` if there is none."""
    encoder = pretrained.encoder
    if isinstance(encoder, encoders.ResNet):
        change = SMALL_STEM if pretrained.arguments["stem"] == "cifar" else ""
        return Counterpart(
            made(f"resnet{pretrained.arguments['depth']}"), resnet_tensors(encoder, "torchvision"), "fc", change
        )
    if isinstance(encoder, (encoders.Torchvision, encoders.Timm)):
        return same_name(encoder, encoder.name)
    if isinstance(encoder, encoders.ViT):
        return vit(encoder)
    if isinstance(encoder, encoders.Swin):
        return swin(encoder, pretrained.arguments)
    refuse_kind(encoder, "torchvision")


def made(name: str) -> str:
    """The expression that makes one of torchvision's networks by its name."""
    return f"torchvision.models.get_model({quoted(name)})"


def same_name(encoder: Encoder, name: str) -> Counterpart:
    """torchvision's network of this name, if it has the same tensors: an encoder of torchvision's, or of timm's."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        refuse(name, "torchvision")
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    path, _ = last_linear(net, name)
    state = renamed(encoder, {r"^net\.": ""})
    theirs = {key: each for key, each in net.state_dict().items() if not key.startswith(f"{path}.")}
    require_same(state, theirs, name, "torchvision")
    return Counterpart(made(name), state, path)


def vit(encoder: encoders.ViT) -> Counterpart:
    """torchvision's VisionTransformer, which has a class token, and embeddings of absolute positions."""
    if encoder.pool != "class" or encoder.relative:
        refuse("this ViT", "torchvision", "torchvision's pools the class token, and has no relative positions")
    depth, width, side = len(encoder.blocks), encoder.embed_dim, encoder.position.shape[0]
    block: Any = encoder.blocks[0]
    sizes = (side * encoder.patch_size, encoder.patch_size, depth, block.num_heads, width, block.mlp[0].out_features)
    state = renamed(encoder, VIT_NAMES)
    state["class_token"] = encoder.class_token.view(1, 1, width)
    # Ours has the position of the class token in the token.
    state["encoder.pos_embedding"] = torch.cat([torch.zeros(1, width), encoder.position.flatten(0, 1)])[None]
    return Counterpart(f"torchvision.models.VisionTransformer({listed(sizes)[1:-1]})", state, "heads.head")


def swin(encoder: encoders.Swin, arguments: dict) -> Counterpart:
    """torchvision's SwinTransformer of the same sizes; its layers count a stage and what leads to it."""
    patch, window = [encoder.patch_size] * 2, [arguments["window_size"]] * 2
    sizes = (listed(patch), str(encoder.token_dim), listed(arguments["depths"]), listed(arguments["num_heads"]))
    make = f"torchvision.models.SwinTransformer({', '.join(sizes)}, {listed(window)}, {arguments['mlp_ratio']})"

    def place(match: re.Match[str]) -> str:
        stage, block = int(match[1]), int(match[2])
        if stage == 0:
            return f"features.1.{block}."
        return f"features.{2 * stage + 1}.{block - 1}." if block else f"features.{2 * stage}."

    state = renamed(encoder, {r"^patches\.": "features.0.0.", r"^patches_norm\.": "features.0.2."})
    state = {re.sub(r"^stages\.(\d+)\.(\d+)\.", place, name): tensor for name, tensor in state.items()}
    return Counterpart(make, state, "head")
