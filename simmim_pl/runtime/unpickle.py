"""Load files of ``torch.save`` without running code, in about as much memory as the file has bytes."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from struct import unpack
from typing import IO, Any

import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.pickle_size import PickleScanner, RefusedError

# torch's legacy format, from before 2020, has five pickles (magic number, protocol version, system, content, storage
# keys), then the storages.
LEGACY_PICKLES = 5
# Signatures of a ZIP file's records: local file header, end of central directory, and their ZIP64 forms.
LOCAL_HEADER, END_OF_DIRECTORY, ZIP64_LOCATOR, ZIP64_END_OF_DIRECTORY = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x07",
    b"PK\x06\x06",
)


def unpickle(path: str | Path, weights_only: bool = True) -> Any:
    """Load a file of ``torch.save`` to the CPU.

    Args:
        path: the file.
        weights_only: accept tensors and plain values only. False trusts the file, which may then run code.

    Raises:
        InputError: the file does not exist, is truncated, holds anything but tensors and plain values, or would take
            much more memory than it has bytes.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no checkpoint {path}: give the path of a file that exists.")
    try:
        if weights_only:
            require_bounded_memory(Path(path))
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except RefusedError as error:
        raise InputError(f"{path} was not read, because {error}: use another checkpoint of the same run.") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … depending on the damage
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is truncated, or holds more than tensors and plain values. "
            f"Use another checkpoint of the same run, or save its state_dict alone ({type(error).__name__})."
        ) from error


def require_bounded_memory(path: Path) -> None:
    """Raise :class:`RefusedError` if loading a file would take much more memory than it has bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(LOCAL_HEADER)) == LOCAL_HEADER:  # torch decides in the same way
            require_single_directory(file, size)
            require_bounded_archive(file, size)
            return
        file.seek(0)
        scanner = PickleScanner(size)
        for _ in range(LEGACY_PICKLES):
            scanner.scan(file)


def require_single_directory(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a ZIP file ends in its central directory and the records that point to it.

    torch and zipfile search for the central directory in different ways. In a file laid out otherwise they could find
    two different ones.
    """
    file.seek(max(size - 98, 0))
    tail = file.read().rjust(98, b"\0")
    wide, locator, end = tail[:56], tail[56:76], tail[76:]
    length, start = unpack("<II", end[12:20])
    records = size - len(end)
    if locator.startswith(ZIP64_LOCATOR):
        length, start = unpack("<QQ", wide[40:])
        records = size - len(tail)
        if not wide.startswith(ZIP64_END_OF_DIRECTORY) or unpack("<Q", locator[8:16]) != (records,):
            raise ValueError("its central directory is not at its end")
    if not end.startswith(END_OF_DIRECTORY) or end[20:] != b"\0\0" or start + length != records:
        raise ValueError("its central directory is not at its end")


def require_bounded_archive(file: IO[bytes], size: int) -> None:
    """Raise :class:`RefusedError` if loading a ZIP file would take much more memory than it has bytes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise RefusedError("it is compressed, which torch.save never does, and may unpack to any size")
        if sum(entry.file_size for entry in entries) > size:  # several entries may point to the same bytes
            raise RefusedError("its contents are larger than the file")
        sizes = {entry.filename: entry.file_size for entry in entries}
        names = [name for name in sizes if name.lower().endswith("/data.pkl")]
        if len(names) != 1 or len({name.lower() for name in sizes}) < len(entries):  # torch ignores case
            raise ValueError("it is not an archive of torch.save")
        folder = names[0].removesuffix("data.pkl")
        PickleScanner(size, {name.removeprefix(f"{folder}data/"): sizes[name] for name in sizes}).scan(
            BytesIO(archive.read(names[0]))
        )
