"""Read what ``torch.save`` wrote: nothing of it is run, and it takes about as much memory as the file has bytes."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.pickle_size import Pickled, RefusedError

# torch's format of before 2020: a magic number, versions, the machine, the content and the keys of its storages, each
# a pickle. The storages follow.
LEGACY_PICKLES = 5


def unpickle(path: str | Path, weights_only: bool = True) -> Any:
    """What ``torch.save`` wrote, on the CPU, if it is tensors and plain values only.

    - ``weights_only``: False trusts the file, which may then hold anything and run code.

    Raises:
        InputError: there is no such file, it is truncated, holds anything but tensors and plain values, or would take
            much more memory than the file has bytes.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no checkpoint {path}: give the path of a file that exists.")
    try:
        if weights_only:
            require_modest(Path(path))
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except RefusedError as error:
        raise InputError(f"{path} is not read, since {error}: use another checkpoint of the same run.") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … by where the file ends
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is truncated, or holds more than tensors and plain values. "
            f"Use another checkpoint of the same run, or save its state_dict alone ({type(error).__name__})."
        ) from error


def require_modest(path: Path) -> None:
    """Raises :class:`RefusedError` where torch would make much more of a file than it has bytes."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            content = Pickled(size)
            for _ in range(LEGACY_PICKLES):
                content.read(file)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise RefusedError("it is compressed, which torch.save never does, and may unpack to any size")
        # Several entries can share the bytes of one. The first begins the file, or torch and zipfile would differ in
        # where the list of entries is.
        if sum(entry.file_size for entry in entries) > size or entries[0].header_offset:
            raise RefusedError("what it holds is larger than the file")
        sizes = {entry.filename: entry.file_size for entry in entries}
        names = [name for name in sizes if name.lower().endswith("/data.pkl")]
        if len(names) != 1 or len({name.lower() for name in sizes}) < len(entries):  # torch takes any case
            raise ValueError("no archive of torch.save")
        folder = names[0].removesuffix("data.pkl")
        Pickled(size, {name.removeprefix(f"{folder}data/"): sizes[name] for name in sizes}).read(
            BytesIO(archive.read(names[0]))
        )
