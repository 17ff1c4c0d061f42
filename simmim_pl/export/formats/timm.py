"""A state dict that timm's own networks load with ``strict=True``."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl import encoders
from simmim_pl.contracts import Encoder
from simmim_pl.export.formats.counterpart import (
    SMALL_STEM,
    Counterpart,
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
from simmim_pl.runtime.safetensors_file import save_safetensors

MLP_NAMES = {r"\.mlp\.0\.": ".mlp.fc1.", r"\.mlp\.3\.": ".mlp.fc2."}
VIT_NAMES = MLP_NAMES | {
    r"^patches\.": "patch_embed.proj.",
    r"^(blocks\.\d+\.)ln_": r"\1norm",
    r"\.self_attention\.in_proj_": ".attn.qkv.",
    r"\.self_attention\.out_proj\.": ".attn.proj.",
    r"^position$": "pos_embed",
    r"^class_token$": "cls_token",
}
SWIN_NAMES = MLP_NAMES | {r"^patches\.": "patch_embed.proj.", r"^patches_norm\.": "patch_embed.norm."}


class Timm(Format):
    """timm's names, for the network of timm that is the same, without a classifier."""

    file = "model.safetensors"
    library = "timm"
    needs = ("timm", "safetensors")

    def __init__(self, pretrained: Pretrained, images: Float[Tensor, "B C S S"]) -> None:
        super().__init__(pretrained, images)
        require_rgb(pretrained.encoder, "timm")
        self.found = counterpart(pretrained, images.shape[-1])
        torch_too = ("torch",) if self.found.change else ()
        self.said = ("timm's networks do not normalise their input: the last line does it.",)
        if not self.found.change:
            self.said += ('`timm.create_model("local-dir:FOLDER", pretrained=True)` loads it too.',)
        self.imports = ("safetensors.torch", "timm", *torch_too, "torchvision")

    def write(self, folder: Path) -> None:
        save_safetensors(self.found.state, {"format": "pt"}, folder / self.file)
        if not self.found.change:
            text = json.dumps(self.config(), indent=2)
            atomic.write(folder / "config.json", lambda file: file.write(f"{text}\n".encode()))

    def config(self) -> dict[str, Any]:
        """What timm reads to make a network of a folder (``local-dir:``), or of the hub (``hf-hub:``), by itself."""
        mean, std = self.pretrained.normalization
        name, _, tag = self.found.name.partition(".")
        known = import_module("timm").get_pretrained_cfg(self.found.name)  # None of a network that never had weights
        return {
            "architecture": name,
            "num_classes": 0,
            "num_features": self.pretrained.encoder.embed_dim,
            "model_args": {**self.found.options},
            "pretrained_cfg": {
                "tag": tag,
                "input_size": [3, *self.images.shape[2:]],
                "fixed_input_size": getattr(known, "fixed_input_size", False),
                "mean": mean,
                "std": std,
                "num_classes": 0,
            },
        }

    def load(self, file: str) -> list[str]:
        return [
            f"net = {self.found.make}.eval()",
            *filter(None, [self.found.change]),
            f"net.load_state_dict(safetensors.torch.load_file({file}), strict=True)",
        ]

    @property
    def run(self) -> list[str]:
        return [f"pooled = net({normalize(self.pretrained)})"]


def counterpart(pretrained: Pretrained, size: int) -> Counterpart:
    """timm's network that is the same, for images of a size. Raises :class:`InputError` if there is none."""
    encoder = pretrained.encoder
    if isinstance(encoder, encoders.ResNet):
        change = SMALL_STEM if pretrained.arguments["stem"] == "cifar" else ""
        return made(f"resnet{pretrained.arguments['depth']}", resnet_tensors(encoder, "timm"), change)
    if isinstance(encoder, encoders.Timm):
        return made(encoder.name, renamed(encoder, {r"^net\.": ""}))
    if isinstance(encoder, encoders.Torchvision):
        return same_name(encoder, encoder.name)
    if isinstance(encoder, encoders.ViT):
        return vit(encoder)
    if isinstance(encoder, encoders.Swin):
        return swin(encoder, pretrained.arguments, size)
    refuse_kind(encoder, "timm")


def made(name: str, state: dict[str, Tensor], change: str = "", **options: Any) -> Counterpart:
    """The network that timm makes by a name and options, without its classifier."""
    shown = {key: quoted(value) if isinstance(value, str) else repr(value) for key, value in options.items()}
    given = "".join(f", {key}={value}" for key, value in shown.items())
    make = f"timm.create_model({quoted(name)}, num_classes=0{given})"
    return Counterpart(make, state, change=change, name=name, options=options)


def same_name(encoder: Encoder, name: str) -> Counterpart:
    """timm's network of this name, if it has the same tensors as torchvision's."""
    timm = import_module("timm")
    if not timm.is_model(name):
        refuse(name, "timm")
    state = renamed(encoder, {r"^net\.": ""})
    require_same(state, timm.create_model(name, num_classes=0).state_dict(), name, "timm")
    return made(name, state)


def vit(encoder: encoders.ViT) -> Counterpart:
    """timm's VisionTransformer of the same sizes, with a class token or without."""
    if encoder.relative:
        refuse("this ViT", "timm", "timm's has no biases by relative position like these")
    block: Any = encoder.blocks[0]
    width, side = encoder.embed_dim, encoder.position.shape[0]
    sizes = {
        "img_size": side * encoder.patch_size,
        "patch_size": encoder.patch_size,
        "embed_dim": width,
        "depth": len(encoder.blocks),
        "num_heads": block.num_heads,
        "mlp_ratio": block.mlp[0].out_features / width,
    }
    state, position = renamed(encoder, VIT_NAMES), encoder.position.flatten(0, 1)
    if encoder.pool == "class":  # ours has the position of the class token in the token
        state["cls_token"] = encoder.class_token.view(1, 1, width)
        position = torch.cat([torch.zeros(1, width), position])
    else:  # which timm normalises after the mean, unless it is told otherwise
        sizes |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    state["pos_embed"] = position[None]
    return made("vit_tiny_patch16_224", state, **sizes)


def swin(encoder: encoders.Swin, arguments: dict, size: int) -> Counterpart:
    """timm's SwinTransformer of the same sizes, for one size of images, which decides where windows shift."""
    sizes = {
        "img_size": size,
        "patch_size": encoder.patch_size,
        "window_size": arguments["window_size"],
        "embed_dim": encoder.token_dim,
        "depths": list(arguments["depths"]),
        "num_heads": list(arguments["num_heads"]),
        "mlp_ratio": arguments["mlp_ratio"],
    }

    def place(match: re.Match[str]) -> str:
        stage, block = int(match[1]), int(match[2])
        if stage and not block:
            return f"layers.{stage}.downsample."
        return f"layers.{stage}.blocks.{block - bool(stage)}."

    state = {
        re.sub(r"^stages\.(\d+)\.(\d+)\.", place, name): each for name, each in renamed(encoder, SWIN_NAMES).items()
    }
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(".relative_position_index")}
    return made("swin_tiny_patch4_window7_224", kept, **sizes)
