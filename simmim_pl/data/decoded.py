"""Image files decoded once: a memory-mapped array on disk, which every later epoch, run and process reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import UInt8
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from simmim_pl import durable
from simmim_pl.data.decode import decode_all, unreadable
from simmim_pl.data.digest import digest, stamps
from simmim_pl.records import InputError

FORMAT = 1  # of the files here, and of how images are decoded: with another number nothing kept is found


def decoded(files: list[str], size: int, folder: Path) -> UInt8[Tensor, "N 3 S S"]:
    """All images of a split, from ``folder`` when they have been decoded before.

    The file's name depends on name, size and time of change of every image. It is memory-mapped, so processes share
    what is read of it, and written once: whoever comes while another process decodes waits for it. A disk that is full
    or cannot be written costs time only, with a warning.

    Raises:
        InputError: an image cannot be read, or the files changed while they were decoded.
    """
    before = stamps(files)
    path = folder / f"{digest('images', FORMAT, before, size)}.npy"
    with alone(path):
        known = read(path, len(files), size)
        if known is not None:
            return known
        images = decode_all(files, size)
        if stamps(files) != before:
            raise InputError(f"Images changed while they were decoded ({files[0]}, …): start again when all are there.")
        kept = keep(path, lambda file: np.save(file, images.numpy()))
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
    path = folder / f"{digest('unreadable', FORMAT, stamps(files), size)}.json"
    with alone(path):
        try:
            bad: list[int] = json.loads(path.read_text())
        except (OSError, ValueError):
            bad = unreadable(files, size)
            keep(path, lambda file: file.write(json.dumps(bad).encode()))
    return bad


def read(path: Path, number: int, size: int) -> UInt8[Tensor, "N 3 S S"] | None:
    """Images kept before, mapped and not loaded; nothing when there are none, or the file is not what it should be."""
    try:
        images = np.load(path, mmap_mode="c")  # "c": writing to the tensor would change it in memory only
    except (OSError, ValueError, EOFError):
        return None
    if images.dtype != np.uint8 or images.shape != (number, 3, size, size):
        return None
    return torch.from_numpy(images)


def keep(path: Path, content: durable.Content) -> bool:
    """Write a file whole, or warn that it could not be written."""
    try:
        durable.write(path, content)
    except OSError as error:
        rank_zero_warn(f"Decoded images are not kept in {path.parent} ({error}): the next run decodes them again.")
        return False
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of all processes that want this file, one at a time; where no lock can be had, at once."""
    lock = FileLock(path.with_suffix(".lock"))
    with suppress(OSError):  # a folder that cannot be written: nothing will be kept there either
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
