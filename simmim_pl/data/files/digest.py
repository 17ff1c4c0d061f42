"""Short digests of data sets: the keys under which decoded images and features are cached."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from torch import Tensor


def digest(*parts: object) -> str:
    """The first 16 hex digits of SHA-256 over the parts, in order.

    Args:
        parts: tensors, hashed by dtype, shape and bytes; anything else is hashed by its ``repr``, which must be
            complete.

    >>> digest("Shapes", 10_000) == digest("Shapes", 10_000)
    True
    """
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            state.update(f"{part.dtype} {tuple(part.shape)}".encode())
            state.update(part.contiguous().numpy().data)
        else:
            state.update(repr(part).encode())
        state.update(b"\0")
    return state.hexdigest()[:16]


def file_stats(files: Iterable[str]) -> list[tuple[str, int, int, int]]:
    """Absolute path, size in bytes, mtime and ctime in ns of each file: shows changes without opening the files.

    ``rsync --times`` and ``cp -p`` can write other content of the same size and restore mtime, but not ctime. A change
    goes unnoticed only within the clock's resolution (some milliseconds), or on Windows, which has no ctime.

    A missing file, or a broken link, has −1 for all three numbers.
    """
    return [(os.path.abspath(file), *file_stat(file)) for file in files]


def file_stat(file: str) -> tuple[int, int, int]:
    """Size in bytes, mtime and ctime in ns; −1 for each if the file is missing."""
    try:
        stat = os.stat(file)
    except OSError:
        return -1, -1, -1
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
