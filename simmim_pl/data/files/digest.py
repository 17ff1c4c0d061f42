"""A short hash of what a set holds: the key under which features of its images are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from torch import Tensor


def digest(*parts: object) -> str:
    """The first 16 hex digits of SHA-256 over the parts, in order.

    Of a tensor the type, shape and bytes count; of anything else what ``repr`` says, so it must say all.

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


def stamps(files: Iterable[str]) -> list[tuple[str, int, int, int]]:
    """Path, bytes, and times of the last change (ns) of content and of anything: a digest that opens none of them.

    The second time is the system's own (ctime): whoever writes other content of the same size and sets the first time
    back, as ``rsync --times`` and ``cp -p`` do, cannot set it. Other content goes unseen only when it is written within
    the clock's step, some milliseconds, or where there is no such time (Windows).

    A file that is not there, or a link to one, has −1 for all three.
    """
    return [(os.path.abspath(file), *stamp(file)) for file in files]


def stamp(file: str) -> tuple[int, int, int]:
    """Bytes, and times of the last change (ns) of content and of anything."""
    try:
        stat = os.stat(file)
    except OSError:
        return -1, -1, -1
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
