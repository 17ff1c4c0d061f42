"""Read and write safetensors files, which hold tensors by name, and texts as metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic


def load_safetensors(path: str) -> dict[str, Tensor]:
    """Load a safetensors file to the CPU, by the package of that name, which timm brings along.

    Raises:
        InputError: the package is not installed, or the file cannot be read.
    """
    with explained(path):
        tensors: dict[str, Tensor] = import_module("safetensors.torch").load_file(path)
    return tensors


def load_metadata(path: str) -> dict[str, str]:
    """The texts of a safetensors file. Raises :class:`InputError` as :func:`load_safetensors`."""
    with explained(path), import_module("safetensors").safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def save_safetensors(tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write tensors and texts.

    Raises:
        InputError: the package is not installed.
        WriteError: the file cannot be written.
    """
    with explained(str(path)):
        save: Any = import_module("safetensors.torch").save
    # Copies: the format refuses tensors that share memory, and keeps no other layout than the contiguous one.
    content = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, metadata)
    atomic.write(path, lambda file: file.write(content))


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise :class:`InputError` where the package is missing or cannot read a file."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs a package to be read or written: pip install safetensors.") from error
    except Exception as error:  # OSError where there is none, SafetensorError where it is damaged
        raise InputError(f"{path} cannot be read as a safetensors file ({error}): give another.") from error
