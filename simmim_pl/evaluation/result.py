"""Results of protocols: metrics with confidence intervals, and optional details."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simmim_pl.contracts import InputError


@dataclass(frozen=True)
class Estimate:
    """A metric on a test set with its confidence interval. Tables show it in percent.

    Attributes:
        value: the metric, such as an accuracy in [0, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        std: standard deviation over repeats, such as draws of the labels.
    """

    value: float
    low: float
    high: float
    std: float | None = None

    def entry(self) -> dict[str, Any]:
        """As a result card writes it."""
        spread = {} if self.std is None else {"std": self.std}
        return {"value": self.value, "interval": [self.low, self.high], **spread}


@dataclass(frozen=True)
class Result:
    """What a protocol found for one encoder on one data set.

    Attributes:
        metrics: by name; at least one.
        per_class: the metric of each class by its name, in label order; None for a class that does not occur.
        confusion: counts, ``[true][predicted]``, of the classes that ``per_class`` names.
        chosen: hyperparameters that the protocol chose, and what it chose them by.
        variant: which of several results of one protocol this is, such as "1 %" of the labels.
        depth: the encoder's layer that was evaluated, counted from the image; None for the output.

    Raises:
        InputError: there is no metric, one is not finite, or a confusion matrix has no names to its classes.
    """

    metrics: dict[str, Estimate]
    per_class: dict[str, float | None] | None = None
    confusion: list[list[float]] | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise InputError("A protocol's result needs at least one metric.")
        for name, estimate in self.metrics.items():
            if not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
                raise InputError(
                    f"A protocol found {name} = {estimate}, which is not a finite number with an interval."
                )
        if self.confusion is not None and len(self.confusion) != len(self.per_class or ()):
            raise InputError("A confusion matrix needs the names of its classes: give per_class, one number for each.")

    def entry(self) -> dict[str, Any]:
        """As a result card writes it; what the protocol does not say is left out."""
        known = {"per_class": self.per_class, "confusion": self.confusion, "depth": self.depth}
        return {
            "variant": self.variant,
            "metrics": {name: estimate.entry() for name, estimate in self.metrics.items()},
            **{name: value for name, value in known.items() if value is not None},
            "chosen": self.chosen,
        }


def require_results(found: Any, protocol: str) -> Sequence[Result]:
    """Return ``found`` if it is a list of results. Raises :class:`InputError` otherwise."""
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(each, Result) for each in found):
        raise InputError(
            f"{protocol}.evaluate has to return a list of at least one simmim_pl.evaluation.Result, not {found!r:.80}."
        )
    return found
