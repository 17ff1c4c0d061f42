"""ONNX, which runs in many runtimes and languages, for any number of images."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from simmim_pl.contracts import InputError
from simmim_pl.export.formats.format import Format
from simmim_pl.export.formats.torch_export import traced

LARGEST_FILE = 2**31 - 2**24  # bytes of a protobuf message; larger weights lie in a file beside it


class Onnx(Format):
    """An ONNX file that normalises its input ``images``; its outputs are ``pooled`` and ``feature_map``."""

    file = "model.onnx"
    library = "onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    imports = ("onnxruntime",)
    said = ("It normalises its input itself, and takes any number of images, all of this size.",)

    def write(self, folder: Path) -> None:
        program = traced(self.pretrained.encoder, self.images.shape[-1])
        size = sum(tensor.nbytes for tensor in self.pretrained.encoder.state_dict().values())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own parts about each other
                torch.onnx.export(
                    program,
                    f=folder / self.file,
                    input_names=["images"],
                    output_names=["pooled", "feature_map"],
                    external_data=size > LARGEST_FILE,
                    dynamo=True,
                    verbose=False,
                )
        except OSError:
            raise
        except Exception as error:  # of torch, onnxscript or onnx
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise InputError(
                f"torch.onnx cannot convert {self.pretrained.kind} ({reason}): export it --to torch_export."
            ) from error

    def load(self, file: str) -> list[str]:
        return [f'session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])']

    @property
    def run(self) -> list[str]:
        return ['pooled, feature_map = session.run(None, {"images": images.numpy()})  # arrays of numpy']
