"""``python -m simmim_pl.export CHECKPOINT --to FORMAT FOLDER``: a trained encoder for other tools."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simmim_pl.export.export import Options, export
from simmim_pl.export.formats import FORMATS
from simmim_pl.runtime.one_line_errors import one_line_errors

DESCRIPTION = """Write the encoder of a checkpoint in the format of another tool, with a model card beside it.
The file is read back, run on real images and compared with the encoder; if they differ, nothing is written."""
EXPLAINED = """formats:
  torchvision   state dict that torchvision's networks load with strict=True
  timm          state dict that timm's networks load with strict=True
  safetensors   one file that simmim_pl.load_encoder takes, or --model.checkpoint of an evaluation
  torch_export  program of torch.export: any number of images, normalises, needs torch only
  onnx          ONNX: any number of images, normalises, runs in onnxruntime
  hub           safetensors with config.json, as Hugging Face's hub lays models out
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. User errors print one sentence and exit with code 2."""
    options = parse(args)
    with one_line_errors():
        export(options)


def parse(args: Sequence[str] | None) -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m simmim_pl.export",
        description=DESCRIPTION,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint that pretraining wrote")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder: new or empty")
    parser.add_argument("--to", required=True, choices=[*FORMATS], help="format, see below")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="images to verify with; by default the run's own, if they are on this machine",
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of these images; by default as in the run")
    parser.add_argument(
        "--license", default="unknown", help="licence of the weights, as the hub names it: mit, apache-2.0, … [unknown]"
    )
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="also upload the folder to this repository of Hugging Face's hub"
    )
    parser.add_argument(
        "--network", default="online", choices=["online", "teacher"], help="which encoder of a method with a teacher"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="class outside simmim_pl that may be imported"
    )
    return Options(**vars(parser.parse_args(args)))


if __name__ == "__main__":
    main()
