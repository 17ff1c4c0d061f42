"""A safetensors file of one encoder, with the encoder's config in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.runtime.safetensors_file import load_metadata, load_safetensors, save_safetensors

FILE_NAME = "model.safetensors"  # as Hugging Face's hub names it
KEY = "simmim_pl.encoder"  # of the metadata


def is_encoder_file(path: str | Path) -> bool:
    """Whether a path can only be an exported encoder: a folder, or a file by its ending."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors"


def save_encoder(encoder: Encoder, spec: Mapping[str, Any], path: Path) -> None:
    """Write an encoder's tensors under its own names, and its config as JSON in the file's metadata.

    Args:
        encoder: the encoder.
        spec: its config, as a checkpoint has it: ``class_path`` and ``init_args``.
        path: the file.

    Raises:
        InputError: the package safetensors is not installed.
        WriteError: the file cannot be written.
    """
    save_safetensors(encoder.state_dict(), {"format": "pt", KEY: json.dumps(spec)}, path)


def load_encoder_file(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read such a file, or the one in a folder, as if it were the part of a checkpoint that an encoder needs.

    Returns:
        The file, and a mapping with ``state_dict`` and ``config``.

    Raises:
        InputError: the file cannot be read, or does not say how its encoder is built.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    text = load_metadata(str(file)).get(KEY)
    try:
        spec = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file} does not say how its encoder is built, as files of `python -m simmim_pl.export --to safetensors` "
            "do: give --model.encoder, and this file as --model.weights."
        ) from error
    state: dict[str, Tensor] = {f"encoder.{name}": tensor for name, tensor in load_safetensors(str(file)).items()}
    return file, {"state_dict": state, "config": {"model": {"init_args": {"encoder": spec}}}}
