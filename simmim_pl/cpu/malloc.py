"""What the C library does with memory that is freed: keep it for the next step, or give it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # everything from the heap, and the heap never shrinks
RETURN = {M_MMAP_THRESHOLD: 2**20}  # every tensor of more than a megabyte from the system, and back to it


def freed_memory(keep: bool) -> bool:
    """Tell glibc whether to keep what is freed, or to return it at once; whether it was told.

    Left to itself it returns blocks of more than 32 MB, as a batch's activations are, and in every step the system
    clears those pages anew: on a CPU a tenth of a ResNet-18's time (docs/results.md). Kept, they are used again, for a
    quarter more memory at the peak. Who is short of memory has all of it returned.

    Who has set ``MALLOC_…`` variables is not overruled. Other C libraries have no such switch; GPUs' memory is
    torch's.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        library = ctypes.CDLL(None)
        told = [library.mallopt(option, value) for option, value in (KEEP if keep else RETURN).items()]
        return all(told)
    return False
