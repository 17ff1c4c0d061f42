"""A program of torch.export, which runs without this package, for any number of images."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.export.formats.format import Format
from simmim_pl.runtime import atomic


class Named(nn.Module):
    """An encoder whose outputs are a plain dict, for which a program needs no class of this package."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "B C S S"]) -> dict[str, Tensor]:
        """``pooled`` and ``feature_map``."""
        return dict(self.encoder(images)._asdict())


class TorchExport(Format):
    """``torch.export``'s file, with a dynamic number of images; it normalises its input."""

    file = "model.pt2"
    library = "pytorch"
    imports = ("torch",)
    said = ("It normalises its input itself, and takes any number of images, all of this size.",)

    def write(self, folder: Path) -> None:
        program = traced(self.pretrained.encoder, self.images.shape[-1])
        atomic.write(folder / self.file, lambda file: torch.export.save(program, file))

    def load(self, file: str) -> list[str]:
        return [f"program = torch.export.load({file}).module()"]

    @property
    def run(self) -> list[str]:
        return ["features = program(images)", 'pooled, feature_map = features["pooled"], features["feature_map"]']


def traced(encoder: Encoder, size: int) -> ExportedProgram:
    """The encoder as a program for any number of images of a size, in pixels.

    Raises:
        InputError: the encoder's arithmetic depends on values, or on the number of images.
    """
    images = torch.zeros(3, len(encoder.mean), size, size)  # none of the real ones, since the file keeps them
    try:
        with torch.no_grad():
            dynamic = {"images": {0: Dim("batch")}}
            program = torch.export.export(Named(encoder).eval(), (images,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # torch's errors about what it cannot trace have no common base
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"torch.export cannot trace {type(encoder).__name__} for any number of images ({reason}): export it --to "
            "safetensors."
        ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program
