"""Image files decoded once: a memory-mapped array on disk, which every later epoch, run and process reads."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import PIL
import torch
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode_all, unreadable
from simmim_pl.data.files.digest import digest, stamps
from simmim_pl.runtime import atomic

# Of the files here, and of what decodes images: of another version nothing kept is found.
VERSION = f"2, Pillow {PIL.__version__}"
CHECKSUM = 4  # bytes


def decoded(files: list[str], size: int, folder: Path) -> UInt8[Tensor, "N 3 S S"]:
    """All images of a split, from ``folder`` when they have been decoded before.

    The file's name depends on name, size and times of change of every image, see
    :func:`simmim_pl.data.files.digest.stamps`; it ends with a checksum, and is decoded anew when that is wrong. It is
    memory-mapped, so processes share what is read of it, and written once: whoever comes while another process decodes
    waits for it. A folder that cannot be written costs time only, with a warning.

    Raises:
        OSError: the disk is full.
        InputError: an image cannot be read, or the files changed while they were decoded.
    """
    before = stamps(files)
    path = folder / f"{digest('images', VERSION, before, size)}.uint8"
    with alone(path):
        known = read(path, len(files), size)
        if known is not None:
            return known
        images = decode_all(files, size)
        if stamps(files) != before:
            raise InputError(f"Images changed while they were decoded ({files[0]}, …): start again when all are there.")
        kept = keep(path, lambda file: file.write(images.numpy().data) and file.write(checksum(images)))
        known = read(path, len(files), size) if kept else None
    return images if known is None else known


def readable(files: list[str], size: int, folder: Path | None) -> list[int]:
    """Positions of the images that can be decoded; the others are counted in a warning.

    Every image is tried, where there is a folder once for the same files.

    Raises:
        InputError: none can be.
    """
    bad = unreadable(files, size) if folder is None else known_unreadable(files, size, folder)
    if len(bad) == len(files):
        raise InputError(f"None of the {len(files)} images can be read: see {files[0]}.")
    if bad:
        names = ", ".join(files[i] for i in bad[:3]) + (", …" if len(bad) > 3 else "")
        rank_zero_warn(f"{len(bad)} of {len(files)} images cannot be read and are left out: {names}")
    left_out = set(bad)
    return [i for i in range(len(files)) if i not in left_out]


def known_unreadable(files: list[str], size: int, folder: Path) -> list[int]:
    """:func:`unreadable`, from ``folder`` when these files have been tried before."""
    path = folder / f"{digest('unreadable', VERSION, stamps(files), size)}.json"
    with alone(path):
        with suppress(OSError, ValueError, TypeError):
            known, said = json.loads(path.read_text())
            if said == digest(known):
                return list(known)
        bad = unreadable(files, size)
        keep(path, lambda file: file.write(json.dumps([bad, digest(bad)]).encode()))
    return bad


def read(path: Path, number: int, size: int) -> UInt8[Tensor, "N 3 S S"] | None:
    """Images kept before, mapped; nothing when there are none, or the file has another length or checksum.

    All is read for the checksum, at several 10⁹ bytes a second, as the first epoch would from a slower disk.
    """
    length = number * 3 * size * size
    if not path.is_file() or path.stat().st_size != length + CHECKSUM:
        return None
    whole = torch.from_file(str(path), size=length + CHECKSUM, dtype=torch.uint8)
    images = whole[:length].view(number, 3, size, size)
    return images if checksum(images) == whole[length:].numpy().tobytes() else None


def checksum(images: UInt8[Tensor, "N 3 S S"]) -> bytes:
    """Of every pixel."""
    return zlib.crc32(images.numpy().data).to_bytes(CHECKSUM, "little")


def keep(path: Path, content: atomic.Content) -> bool:
    """Write a file whole, or warn that it could not be written. Raises :class:`OSError` when the disk is full."""
    try:
        atomic.write(path, content)
    except OSError as error:
        if atomic.full(error):
            raise
        rank_zero_warn(f"Decoded images are not kept in {path.parent} ({error}): the next run decodes them again.")
        return False
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of all processes that want this file, one at a time; where no lock can be had, at once, which costs time only."""
    lock = FileLock(path.with_suffix(".lock"))
    with suppress(OSError, NotImplementedError):  # a folder that cannot be written, a file system without locks
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"Waiting for another process that decodes the same images ({lock.lock_file}).", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
