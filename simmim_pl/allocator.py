"""Memory that is freed is kept for the next step, where the C library would give it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed memory to the system; whether it was told.

    By default it returns every block of more than 32 MB at once, as a batch's activations are, and in every step the
    system clears those pages anew: on a CPU a tenth of a ResNet-18's time, for a third more memory (docs/results.md).
    Who has set ``MALLOC_…`` variables is not overruled. Other C libraries have no such switch; GPUs' memory is
    torch's.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        library = ctypes.CDLL(None)
        # Everything from the heap, and the heap never shrinks.
        return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1))
    return False
