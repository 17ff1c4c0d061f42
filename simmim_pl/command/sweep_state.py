"""What of a sweep is done, as the folder of its runs says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from simmim_pl.command.sweep_config import SweepConfig

DONE_MARKER = "done"  # empty file next to the run directories of a trained combination


def markers(config: SweepConfig, run: Path) -> list[Path]:
    """Empty files that say that a combination was trained, and evaluated by the sweep's command if it has one."""
    digest = hashlib.sha256(repr(config.evaluate).encode()).hexdigest()[:6]
    return [run / DONE_MARKER, *([run / f"evaluated-{digest}"] if config.evaluate else [])]


def newest_run_directory(run: Path) -> Path | None:
    """The newest run directory of a combination that has logged metrics."""
    found = sorted(run.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None
