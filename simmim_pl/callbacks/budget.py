"""Limit how much of a run's time a costly task may take."""

from __future__ import annotations

import time
from types import TracebackType


class Budget:
    """Allows a task again once its last duration is at most a share of the time since it last ended.

    Run the task within ``with budget:``, which measures its duration.

    Args:
        share: the largest share of the time that the task may take.
        guess: its assumed duration before the first time, in seconds.
    """

    def __init__(self, share: float, guess: float) -> None:
        self.share, self.cost = share, guess
        self.began, self.ended = 0.0, time.perf_counter()

    def allows(self) -> bool:
        """Whether the task may run now."""
        return self.cost <= self.share * (time.perf_counter() - self.ended)

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.perf_counter()
        self.cost = self.ended - self.began
