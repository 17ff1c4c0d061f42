"""Read what ``torch.save`` wrote: nothing of it is run, and it takes about as much memory as the file has bytes."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from struct import unpack
from typing import IO, Any

import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.pickle_size import Pickled, RefusedError

# torch's format of before 2020: a magic number, versions, the machine, the content and the keys of its storages, each
# a pickle. The storages follow.
LEGACY_PICKLES = 5
# How the records of an archive begin: of an entry, of its end, and the two before that where it is of 64 bits.
ENTRY, END, LOCATOR, END_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"


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
    with path.open("rb") as file:
        if file.read(len(ENTRY)) == ENTRY:  # as torch decides it
            require_one_list(file, size)
            require_modest_archive(file, size)
            return
        file.seek(0)
        content = Pickled(size)
        for _ in range(LEGACY_PICKLES):
            content.read(file)


def require_one_list(file: IO[bytes], size: int) -> None:
    """Raises ValueError unless an archive ends in its list of entries and the records that point to it.

    torch and zipfile look for the list in ways of their own. In any other file they could find two.
    """
    file.seek(max(size - 98, 0))
    tail = file.read().rjust(98, b"\0")
    wide, locator, end = tail[:56], tail[56:76], tail[76:]
    length, start = unpack("<II", end[12:20])
    records = size - len(end)
    if locator.startswith(LOCATOR):
        length, start = unpack("<QQ", wide[40:])
        records = size - len(tail)
        if not wide.startswith(END_64) or unpack("<Q", locator[8:16]) != (records,):
            raise ValueError("its list of entries is not where it ends")
    if not end.startswith(END) or end[20:] != b"\0\0" or start + length != records:
        raise ValueError("its list of entries is not where it ends")


def require_modest_archive(file: IO[bytes], size: int) -> None:
    """Raises :class:`RefusedError` where torch would make much more of an archive than it has bytes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise RefusedError("it is compressed, which torch.save never does, and may unpack to any size")
        if sum(entry.file_size for entry in entries) > size:  # several entries can share the bytes of one
            raise RefusedError("what it holds is larger than the file")
        sizes = {entry.filename: entry.file_size for entry in entries}
        names = [name for name in sizes if name.lower().endswith("/data.pkl")]
        if len(names) != 1 or len({name.lower() for name in sizes}) < len(entries):  # torch takes any case
            raise ValueError("no archive of torch.save")
        folder = names[0].removesuffix("data.pkl")
        Pickled(size, {name.removeprefix(f"{folder}data/"): sizes[name] for name in sizes}).read(
            BytesIO(archive.read(names[0]))
        )
