"""What the runs of a sweep reached: a table in the console, and a report of all of them side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from simmim_pl.command.sweep_config import SweepConfig, Values, run_name
from simmim_pl.command.sweep_state import DONE_MARKER, newest_run_directory
from simmim_pl.evaluation.table import aligned, shown
from simmim_pl.report.comparison import scores, tasks
from simmim_pl.report.page import render_page
from simmim_pl.report.run import Run, load_run
from simmim_pl.runtime import atomic

COLUMNS = ("val/knn", "val/probe", "train/loss")


def show(config: SweepConfig, runs: str, page: Path) -> None:
    """Print the table, and write the page."""
    finished = finished_runs(config, runs)
    print(results_table(config, finished))
    if found := [run for _, run in finished if run]:
        atomic.write(page, lambda file: file.write(render_page(found).encode()))
        print(f"Side by side: {page}")


def finished_runs(config: SweepConfig, runs: str) -> list[tuple[Values, Run | None]]:
    """The finished combinations and what they left; ``None`` of one that logged nothing."""
    done = [(values, Path(runs, run_name(config, values))) for values in config.combinations]
    folders = [(values, newest_run_directory(run)) for values, run in done if (run / DONE_MARKER).exists()]
    return [(values, load_run(folder) if folder else None) for values, folder in folders]


def results_table(config: SweepConfig, finished: Sequence[tuple[Values, Run | None]]) -> str:
    """Markdown table of the finished combinations: metrics, evaluations, directories. The best is first and marked."""
    metrics = list(dict.fromkeys([config.metric, *COLUMNS]))
    found = [(values, run, scores(run) if run else {}) for values, run in finished]
    evaluated = tasks([each for _, _, each in found])

    def score(run: Run | None) -> float:
        """The metric with its sign such that smaller is better; infinite if missing, so that it sorts last."""
        value = run.last(config.metric) if run else math.nan
        return math.inf if math.isnan(value) else -value if config.maximise else value

    found.sort(key=lambda row: score(row[1]))
    best_score = score(found[0][1]) if found else math.inf
    lines = [["", *config.combinations[0], *metrics, *evaluated, "directory"]]
    for values, run, estimates in found:
        best = "best" if score(run) == best_score < math.inf else ""
        logged = [f"{run.last(metric):.4g}" if run and metric in run.history else "–" for metric in metrics]
        told = [shown(estimates[task]) if task in estimates else "–" for task in evaluated]
        lines.append([best, *map(str, values.values()), *logged, *told, str(run.folder if run else "–")])
    return "\n".join(aligned(lines))
