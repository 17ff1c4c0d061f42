"""Signals and shutdown of DataLoader workers."""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from typing import Any

from torch.utils.data import DataLoader


def ignore_signals(worker: int) -> None:
    """Worker init function: ignore signals sent to the whole process group, which the main process handles.

    The second SIGTERM ends the worker: it comes from the main process, which terminates workers that do not stop.

    Args:
        worker: index of the worker, unused.
    """
    received: list[int] = []
    for number in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(0) if received else received.append(number))


def shut_down_at_exit(loader: DataLoader) -> None:
    """Shut down a loader's persistent workers at exit, before multiprocessing sends them one SIGTERM and waits."""
    atexit.register(shut_down, weakref.ref(loader))


def shut_down(loader: weakref.ref[DataLoader]) -> None:
    """Shut down the workers of a loader, if it still exists and has started any."""
    if iterator := getattr(loader(), "_iterator", None):
        iterator._shutdown_workers()


def identity_collate(batch: Any) -> Any:
    """Collate function for data sets whose ``__getitems__`` returns a whole batch: returns it unchanged."""
    return batch
