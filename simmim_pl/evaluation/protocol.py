"""Contract of evaluation protocols: from one encoder on one data set to results with confidence intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import nn

from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.result import Result


class Protocol(ABC):
    """Contract of every protocol. Its attributes are its hyperparameters, which the result card lists.

    :class:`simmim_pl.evaluation.Evaluation` makes a context for each data set and encoder and passes it to each
    protocol, on every rank. The protocol takes batches or features from it, and all ranks get the same result.

    Args:
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    supports_raw_pixels = True  # whether raw pixels, which nothing can train, can be evaluated too
    supports_layer = True  # whether one layer of an encoder, --model.layer, can be evaluated

    def __init__(self, data: LightningDataModule | None = None) -> None:
        self.data = data

    @abstractmethod
    def evaluate(self, context: EvaluationContext) -> list[Result]:
        """Evaluate one encoder on one data set. The test split is used once, after everything is chosen."""

    def settings(self) -> dict[str, Any]:
        """Hyperparameters by name; for a nested object, its class and its hyperparameters."""
        return {name: plain(value) for name, value in sorted(vars(self).items()) if name != "data"}


def best(accuracy: dict[Any, float]) -> Any:
    """The candidate with the highest validation accuracy; the first one in a tie.

    >>> best({0.1: 0.5, 1.0: 0.7, 3.0: 0.7})
    1.0
    """
    return max(accuracy, key=accuracy.__getitem__)


def by_name(accuracy: dict[Any, float]) -> dict[str, float]:
    """Validation results as a card shows them."""
    return {f"{name:g}" if isinstance(name, float) else str(name): round(v, 6) for name, v in accuracy.items()}


def plain(value: Any) -> Any:
    """A hyperparameter as JSON."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if not hasattr(value, "__dict__"):  # such as a path
        return str(value)
    parts = {**vars(value), **(dict(value.named_children()) if isinstance(value, nn.Module) else {})}
    own = {name: plain(part) for name, part in sorted(parts.items()) if not name.startswith("_")}
    return {"class": type(value).__name__, **{name: part for name, part in own.items() if name != "training"}}
