"""Cache of decoded images: one memory-mapped array on disk, shared by epochs, runs and processes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import PIL
import torch
from filelock import FileLock, Timeout
from jaxtyping import UInt
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode_all, find_unreadable
from simmim_pl.data.files.digest import digest
from simmim_pl.data.files.encoded import EncodedImages
from simmim_pl.data.files.find_range import find_range
from simmim_pl.data.files.pixel_format import RGB, PixelFormat
from simmim_pl.runtime import atomic

# Version of the cache format and of the decoder; part of the cache key.
VERSION = f"2, Pillow {PIL.__version__}"
CHECKSUM_BYTES = 4  # CRC-32


def load_or_decode(encoded: EncodedImages, size: int, folder: Path, form: PixelFormat = RGB) -> UInt[Tensor, "N C S S"]:
    """All images of a split, decoded once and then read from a cache file.

    The cache file's name depends on :meth:`simmim_pl.data.files.encoded.EncodedImages.stats`: path, size and
    modification times of every file. It ends with a checksum; if that is wrong, the images are decoded again. It is
    memory-mapped, so processes share its pages. One process decodes while others wait. If the folder cannot be written,
    a warning is shown and the images are decoded each time.

    Args:
        encoded: N images.
        size: S, height and width after resizing and cropping, in pixels.
        folder: of the cache.
        form: of the pixels.

    Raises:
        OSError: the disk is full.
        InputError: an image cannot be read, or files changed while they were decoded.
    """
    before = encoded.stats()
    path = folder / f"{digest('images', VERSION, before, size, *form.key)}.{str(form.dtype).removeprefix('torch.')}"
    with file_lock(path):
        cached = read_cached(path, len(encoded), size, form)
        if cached is not None:
            return cached
        images = decode_all(encoded, size, form)
        if encoded.stats() != before:
            raise InputError(
                f"Images changed while they were decoded ({encoded[0]}, …): start again when all files are there."
            )
        written = try_to_write(path, lambda file: file.write(images.numpy().data) and file.write(checksum(images)))
        cached = read_cached(path, len(encoded), size, form) if written else None
    return images if cached is None else cached


def readable_positions(encoded: EncodedImages, size: int, folder: Path | None, form: PixelFormat = RGB) -> list[int]:
    """Positions of the images that can be decoded; a warning names the others.

    Args:
        encoded: the images, all of which are decoded to find out.
        size: height and width to decode to, in pixels.
        folder: of the cache, which keeps the answer for the same files; ``None`` for no cache.
        form: of the pixels.

    Raises:
        InputError: no image can be decoded.
    """
    bad = kept_answer("unreadable", (size, *form.key), encoded, folder, lambda: find_unreadable(encoded, size, form))
    if len(bad) == len(encoded):
        raise InputError(f"None of the {len(encoded)} images can be read: see {encoded[0]}.")
    if bad:
        names = ", ".join(map(str, encoded.take(bad[:3]))) + (", …" if len(bad) > 3 else "")
        rank_zero_warn(f"{len(bad)} of {len(encoded)} images cannot be read and are left out: {names}")
    excluded = set(bad)
    return [i for i in range(len(encoded)) if i not in excluded]


def range_of(encoded: EncodedImages, channels: int, folder: Path | None) -> tuple[float, float] | None:
    """:func:`simmim_pl.data.files.find_range.find_range`, kept in ``folder``, or found each time without one."""
    found = kept_answer("range", (channels,), encoded, folder, lambda: list(find_range(encoded, channels) or ()))
    return (found[0], found[1]) if found else None


def kept_answer(
    question: str, options: tuple[object, ...], encoded: EncodedImages, folder: Path | None, find: Callable[[], list]
) -> list:
    """A list of numbers about some images: from a file in ``folder``, or found and written there."""
    if folder is None:
        return find()
    path = folder / f"{digest(question, VERSION, encoded.stats(), *options)}.json"
    with file_lock(path):
        with suppress(OSError, ValueError, TypeError):
            cached, expected_digest = json.loads(path.read_text())
            if expected_digest == digest(cached):
                return list(cached)
        found = find()
        try_to_write(path, lambda file: file.write(json.dumps([found, digest(found)]).encode()))
    return found


def read_cached(path: Path, number: int, size: int, form: PixelFormat = RGB) -> UInt[Tensor, "N C S S"] | None:
    """Memory-map a cache file; ``None`` if it does not exist, or its length or checksum is wrong.

    Verifying the checksum reads the whole file, at several GB/s from memory, else at the speed of the disk; the first
    epoch then finds it in the page cache.
    """
    length = number * form.bytes(size)
    if not path.is_file() or path.stat().st_size != length + CHECKSUM_BYTES:
        return None
    whole = torch.from_file(str(path), size=length + CHECKSUM_BYTES, dtype=torch.uint8)
    images = whole[:length].view(form.dtype).view(number, form.number, size, size)
    return images if checksum(images) == whole[length:].numpy().tobytes() else None


def checksum(images: UInt[Tensor, "N C S S"]) -> bytes:
    """CRC-32 of all pixels, little-endian."""
    return zlib.crc32(images.numpy().data).to_bytes(CHECKSUM_BYTES, "little")


def try_to_write(path: Path, content: atomic.Writer) -> bool:
    """Write a cache file atomically. Warns on failure, but raises :class:`OSError` if the disk is full.

    Returns:
        Whether the file was written.
    """
    try:
        atomic.write(path, content)
    except OSError as error:
        if atomic.is_disk_full(error):
            raise
        rank_zero_warn(f"Decoded images cannot be cached in {path.parent} ({error}): the next run decodes them again.")
        return False
    return True


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Lock a cache file against other processes. Without a lock they only decode the same images twice."""
    lock = FileLock(path.with_suffix(".lock"))
    with suppress(OSError, NotImplementedError):  # folder not writable, or file system without locks
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
