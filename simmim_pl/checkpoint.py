"""Read a checkpoint without running anything that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from simmim_pl.records import Encoder, InputError


def read(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of a ``fit`` of ours to the CPU, as tensors and plain values only.

    Raises:
        InputError: there is no such file, it is truncated, holds anything but tensors and plain values, or was written
            by another tool.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}: give the path of a .ckpt file that fit wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … by where the file ends
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is truncated, or holds more than tensors and plain values. "
            f"Use another checkpoint of the same run ({type(error).__name__})."
        ) from error
    sections = ("state_dict", "config")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(key), dict) for key in sections):
        raise InputError(
            f"{path} was not written by `python -m simmim_pl fit`: it lacks the weights or the config that a run of "
            "ours leaves in its checkpoints."
        )
    return checkpoint


def require_same(state: dict[str, Any], own: dict[str, Any], path: str | Path) -> None:
    """Refuse weights of another architecture, naming the first tensor that differs.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.
    """
    for name in sorted(state.keys() | own.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else "no such tensor" for side in (state, own))
        if theirs != ours:
            raise InputError(
                f"{path} is of another architecture: at {name} it has {theirs}, the config builds {ours}. "
                "Use the config.yaml that lies in the run directory of the checkpoint."
            )


def load_encoder(path: str, trained: bool) -> Encoder:
    """Build the encoder that a checkpoint's config describes, with its weights or freshly initialised.

    Only classes of this package are imported because a checkpoint names them; a config can name anything.

    Raises:
        InputError: the checkpoint cannot be read, names a class that is not ours, or does not fit its own config.
    """
    saved = read(path)
    spec: Any = saved["config"]
    for key in ("model", "init_args", "encoder"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or "class_path" not in spec:  # a bare string would be imported as a class path
        raise InputError(f"{path} holds no encoder: give a checkpoint that pretraining wrote.")
    require_ours(spec, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Encoder)
    try:
        encoder: Encoder = parser.instantiate_classes(parser.parse_object({"encoder": spec})).encoder
    except Exception as error:  # jsonargparse's ArgumentError, or whatever the class raises at such arguments
        reason = " ".join(str(error).split())
        raise InputError(f"{path} describes an encoder that this version cannot build: {reason}") from error
    if trained:
        prefix = "encoder."
        state = {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
        require_same(state, encoder.state_dict(), path)
        encoder.load_state_dict(state)
    return encoder


def require_ours(spec: Any, path: str) -> None:
    """Refuse a class path outside this package, however deep in the config it stands."""
    if isinstance(spec, dict):
        name = spec.get("class_path", "simmim_pl.")
        if not str(name).startswith("simmim_pl."):
            raise InputError(f"{path} asks to import {name}, which is not part of simmim_pl: it is not loaded.")
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else []:
        require_ours(part, path)
