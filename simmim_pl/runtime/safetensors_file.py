"""Read safetensors files, which hold tensors by name and nothing else."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from simmim_pl.contracts import InputError


def load_safetensors(path: str) -> dict[str, Tensor]:
    """Load a safetensors file to the CPU, by the package of that name, which timm brings along.

    Raises:
        InputError: the package is not installed, or the file cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = import_module("safetensors.torch").load_file(path)
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs a package to be read: pip install safetensors.") from error
    except Exception as error:  # OSError where there is none, SafetensorError where it is damaged
        raise InputError(f"{path} cannot be read as a safetensors file ({error}): give another.") from error
    return tensors
