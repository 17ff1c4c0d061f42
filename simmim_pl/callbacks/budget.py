"""Something costly, no oftener than it is worth."""

from __future__ import annotations

import time
from types import TracebackType


class Budget:
    """Says when something may happen again: when it will take no more than a share of the time since it last did.

    ``with budget:`` is what it takes, by the last time.

    Args:
        share: of the time.
        guess: seconds, before there was a last time.
    """

    def __init__(self, share: float, guess: float) -> None:
        self.share, self.cost = share, guess
        self.began, self.ended = 0.0, time.perf_counter()

    def allows(self) -> bool:
        """Whether it is cheap enough now."""
        return self.cost <= self.share * (time.perf_counter() - self.ended)

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.perf_counter()
        self.cost = self.ended - self.began
