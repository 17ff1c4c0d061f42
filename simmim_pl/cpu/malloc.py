"""Configure glibc's malloc: keep freed memory for the next step, or return it to the operating system."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # mallopt's parameters, from glibc's malloc.h
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # allocate everything on the heap, and never shrink it
RETURN = {M_MMAP_THRESHOLD: 2**20}  # mmap every block of more than 1 MiB, which is unmapped when freed


def configure_malloc(keep: bool) -> bool:
    """Make glibc keep freed memory, or return it to the operating system at once.

    By default glibc returns blocks of more than 32 MB, such as a batch's activations. The system then zeroes their
    pages again in every step, which takes a tenth of a ResNet-18's time on a CPU (docs/results.md). Keeping them takes
    a quarter more memory at the peak.

    Environment variables ``MALLOC_…`` that the user has set take precedence. Other C libraries have no such setting.
    GPU memory is managed by torch.

    Args:
        keep: keep freed memory; otherwise return it.

    Returns:
        Whether the setting was made.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        library = ctypes.CDLL(None)
        accepted = [library.mallopt(option, value) for option, value in (KEEP if keep else RETURN).items()]
        return all(accepted)
    return False
