"""Formats: a file each, with the lines of Python that load it."""

from simmim_pl.export.formats.format import Format
from simmim_pl.export.formats.hub import Hub
from simmim_pl.export.formats.onnx import Onnx
from simmim_pl.export.formats.safetensors import Safetensors
from simmim_pl.export.formats.timm import Timm
from simmim_pl.export.formats.torch_export import TorchExport
from simmim_pl.export.formats.torchvision import Torchvision

#: The format of each ``--to``.
FORMATS: dict[str, type[Format]] = {
    "torchvision": Torchvision,
    "timm": Timm,
    "safetensors": Safetensors,
    "torch_export": TorchExport,
    "onnx": Onnx,
    "hub": Hub,
}
