"""What the processes that load data are told."""

from __future__ import annotations

import os
import signal
from typing import Any


def leave_signals(worker: int) -> None:
    """Signals to a group reach the processes that load data too; what they mean is the main process's to decide.

    A second SIGTERM is obeyed: it is the main process's, which ends them so when they do not come to an end.
    """
    heard: list[int] = []
    for number in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(0) if heard else heard.append(number))


def as_it_is(batch: Any) -> Any:
    """The collate function of data sets that return whole batches."""
    return batch
