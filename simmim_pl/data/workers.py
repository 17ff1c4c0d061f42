"""What the processes that load data are told."""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from typing import Any

from torch.utils.data import DataLoader


def leave_signals(worker: int) -> None:
    """Signals to a group reach the processes that load data too; what they mean is the main process's to decide.

    A second SIGTERM is obeyed: it is the main process's, which ends them so when they do not come to an end.
    """
    heard: list[int] = []
    for number in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(0) if heard else heard.append(number))


def end_with_process(loader: DataLoader) -> None:
    """End a loader's persistent processes before multiprocessing does, which at exit sends one SIGTERM and waits."""
    atexit.register(end, weakref.ref(loader))


def end(loader: weakref.ref[DataLoader]) -> None:
    """End the processes of a loader that is still there and has started some."""
    if iterator := getattr(loader(), "_iterator", None):
        iterator._shutdown_workers()


def as_it_is(batch: Any) -> Any:
    """The collate function of data sets that return whole batches."""
    return batch
