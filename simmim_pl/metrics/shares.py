"""Shares of independent trials, such as accuracies: their intervals, and how they are written."""

from __future__ import annotations

import math

Z = 3.0  #: standard errors; a smaller difference may be chance


def interval(share: float, trials: int) -> tuple[float, float]:
    """Wilson's interval of a share of independent trials, :data:`Z` standard errors to either side.

    Wilson 1927, doi 10.1080/01621459.1927.10502953: good for small shares of few trials too.

    >>> [round(end, 3) for end in interval(0.0, 91)]
    [0.0, 0.09]
    """
    square = Z * Z / trials
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(max(share * (1 - share), 0.0) / trials + square / (4 * trials))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share(value: float, trials: int, before: float | None) -> str:
    """In percent, with its interval and what it was before.

    >>> share(0.273, 1000, 0.17)
    '27.3 % [23.3–31.7], untrained 17.0 %'
    """
    low, high = interval(value, trials)
    words = f"{percent(value)} [{100 * low:.1f}–{100 * high:.1f}]"
    return words if before is None else f"{words}, untrained {percent(before)}"


def percent(value: float) -> str:
    """With as many digits as a small share needs."""
    return f"{100 * value:.2g} %" if value < 0.01 else f"{100 * value:.1f} %"
