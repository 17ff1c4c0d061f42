"""Load a run from its directory."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simmim_pl.contracts import InputError
from simmim_pl.metrics import Verdict, is_measurement, verdict
from simmim_pl.report.observed import Observed, observed
from simmim_pl.report.starts import Start, load_starts
from simmim_pl.runtime import yaml_schema

History = dict[str, tuple[np.ndarray, np.ndarray]]  # steps [N] and values [N] by metric


@dataclass
class Run:
    """Content of a run directory.

    Attributes:
        name: ``NAME/ID``.
        folder: the directory.
        config: settings of the run.
        history: logged metrics.
        observed: arrays of the last observations, for pictures.
        cards: result cards of evaluations.
        views: PNG of the views, or ``None``.
        starts: one entry for each time the run was started or resumed.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    history: History
    observed: Observed
    cards: list[dict[str, Any]]
    views: bytes | None
    starts: list[Start]

    @property
    def epoch(self) -> float:
        """Optimizer steps per epoch, exact once the end of an epoch was logged; 0 before the second epoch begins."""
        steps, epochs = self.history.get("epoch", (np.zeros(0), np.zeros(0)))
        return float(((steps + 1) / (epochs + 1)).max()) if epochs.any() else 0.0

    def settings(self) -> str:
        """The config as YAML."""
        return yaml.safe_dump(self.config, sort_keys=False)

    def last(self, metric: str) -> float:
        """Last value of a metric; NaN if it was never logged."""
        return float(self.history[metric][1][-1]) if metric in self.history else math.nan

    def first(self, metric: str) -> float:
        """First value of a metric; NaN if it was never logged."""
        return float(self.history[metric][1][0]) if metric in self.history else math.nan

    def validations(self) -> list[dict[str, float]]:
        """For each validation: the last values of all metrics by then, its step, and training progress if known."""
        steps = {step for metric, (x, _) in self.history.items() if is_measurement(metric) for step in x}
        whole = self.starts[-1].get("steps") if self.starts else None
        return [
            {name: float(y[x <= step][-1]) for name, (x, y) in self.history.items() if x[0] <= step}
            | {"step": float(step) + 1}
            | ({"train/progress": (float(step) + 1) / whole} if whole else {})
            for step in sorted(steps)
        ]

    def verdict(self) -> Verdict:
        """Whether the run learns, as :class:`simmim_pl.callbacks.CollapseMonitor` decided at the last validation."""
        return verdict(self.validations())


def load_run(folder: Path) -> Run:
    """Load a run from its directory, also while it is training.

    Raises:
        InputError: it is no run directory, or a file in it cannot be read.
    """
    if not (folder / "config.yaml").is_file() and not (folder / "metrics.csv").is_file():
        raise InputError(
            f"{folder} is not a run directory: give one like runs/NAME/ID, with config.yaml and metrics.csv."
        )
    config, table = folder / "config.yaml", folder / "metrics.csv"
    views = folder / "views.png"
    copies = folder.glob("checkpoints/*.result.json")  # CHECKPOINT.NAME-ID.result.json, whose ID begins with the date
    cards = [folder / "result.json", *sorted(copies, key=lambda path: (path.name.rsplit("-", 3)[1:], path.name))]
    try:
        return Run(
            name=f"{folder.resolve().parent.name}/{folder.resolve().name}",
            folder=folder,
            config=yaml_schema.parse(config.read_text(encoding="utf-8")) if config.is_file() else {},
            history=load_history(table) if table.is_file() else {},
            observed=observed(folder),
            cards=[load_card(path) for path in cards if path.is_file()],
            views=views.read_bytes() if views.is_file() else None,
            starts=load_starts(folder),
        )
    except (OSError, ValueError, RecursionError, csv.Error, yaml.YAMLError) as error:
        raise InputError(f"The run in {folder} cannot be read ({' '.join(str(error).split())}).") from error


def load_card(path: Path) -> dict[str, Any]:
    """Load a result card. Raises :class:`ValueError` if the file holds something else."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"command", "results"} <= found.keys():
        raise ValueError(f"{path.name} is not a result card")
    return found


def load_history(table: Path) -> History:
    """Load ``metrics.csv``. A metric has a point for each line in which it is not empty."""
    found: dict[str, list[tuple[float, float]]] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = float(row.pop("step", None) or 0)
            for name, value in row.items():
                if name and value:  # a line that is just being written may have too many or too few cells
                    found.setdefault(name, []).append((step, float(value)))
    return {name: tuple(np.array(points).T) for name, points in found.items()}
