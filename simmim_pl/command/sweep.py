"""``python -m simmim_pl.sweep``: run the grid of a W&B sweep on this machine, one run at a time, without an account."""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from simmim_pl.command.sweep_config import (
    SweepConfig,
    Values,
    build_command,
    describe_values,
    expand,
    load_sweep_config,
    run_name,
)
from simmim_pl.contracts import InputError

if TYPE_CHECKING:
    from simmim_pl.report.run import Run

COLUMNS = ("val/knn", "val/probe", "train/loss")
FORWARDED_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# A run that ends by one of these was stopped by the user, which stops the sweep. Any other signal is a failed run.
STOP_SIGNALS = [*FORWARDED_SIGNALS, *(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))]
PATIENCE = 60.0  # seconds that a run has to end after Ctrl-C, which the terminal sends to it too
DONE_MARKER = "done"  # empty file beside the run directories of a finished combination


def run_command(command: list[str]) -> int:
    """Run a command and return its exit code. Stopping this process also stops the command, after a last checkpoint."""
    before = {
        number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in FORWARDED_SIGNALS
    }
    try:
        child = subprocess.Popen(command)
        try:
            return child.wait()
        except BaseException as stop:
            if isinstance(stop, KeyboardInterrupt):
                with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                    child.wait(PATIENCE)
            child.terminate()
            child.wait()
            raise
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started ({error.strerror}): correct the sweep's command.") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_number(code: int) -> int:
    """The signal behind an exit code, by Python's convention (−n) or a shell's (128 + n); 0 if there is none."""
    return -code if code < 0 else max(code - 128, 0)


def describe_exit(code: int) -> str:
    """How a run ended, in words.

    >>> describe_exit(3), describe_exit(137)
    ('failed with exit code 3', 'was killed by SIGKILL')
    """
    names = {number.value: number.name for number in signal.Signals}
    number = signal_number(code)
    return f"was killed by {names[number]}" if number in names else f"failed with exit code {code}"


def run_combinations(config: SweepConfig, runs: str, dry: bool = False) -> int:
    """Run and evaluate all combinations that are not finished; a run that was stopped resumes from its checkpoint.

    Args:
        config: the sweep.
        runs: folder of all runs.
        dry: print the commands only.

    Returns:
        How many combinations failed.

    Raises:
        KeyboardInterrupt: a run was stopped by a signal.
    """
    failed = 0
    for number, values in enumerate(config.combinations, 1):
        run = Path(runs, run_name(config, values))
        told = f"[{number}/{len(config.combinations)}] {describe_values(values)}"
        train = [*build_command(config, values), f"--runs={runs}", f"--name={run.name}", "--ckpt_path=last"]
        if dry:
            print(shlex.join(train))
            if config.evaluate:
                print(shlex.join(evaluation_command(config, runs, run / "ID")))
        elif (run / DONE_MARKER).exists():
            print(f"{told}: done before", flush=True)
        else:
            print(told, flush=True)
            code = run_command(train)
            if not code and config.evaluate:
                code = run_command(evaluation_command(config, runs, newest_run_directory(run) or run))
            if signal_number(code) in STOP_SIGNALS:
                raise KeyboardInterrupt
            if code:
                print(f"{told}: {describe_exit(code)}", file=sys.stderr, flush=True)
                failed += 1
            else:
                run.mkdir(parents=True, exist_ok=True)
                (run / DONE_MARKER).touch()
    return failed


def evaluation_command(config: SweepConfig, runs: str, folder: Path) -> list[str]:
    """The command that evaluates the run in a directory, of which the result card leaves a copy there."""
    checkpoint = folder / "checkpoints/last.ckpt"
    return [*expand(config.evaluate, config.program, {}), f"--model.checkpoint={checkpoint}", f"--runs={runs}"]


def newest_run_directory(run: Path) -> Path | None:
    """The newest run directory of a combination that has logged metrics."""
    found = sorted(run.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def finished_runs(config: SweepConfig, runs: str) -> list[tuple[Values, Run | None]]:
    """The finished combinations and what they left; ``None`` of one that logged nothing."""
    from simmim_pl.report.run import load_run  # which imports torch, and most of what a sweep says needs none

    done = [(values, Path(runs, run_name(config, values))) for values in config.combinations]
    folders = [(values, newest_run_directory(run)) for values, run in done if (run / DONE_MARKER).exists()]
    return [(values, load_run(folder) if folder else None) for values, folder in folders]


def results_table(config: SweepConfig, finished: Sequence[tuple[Values, Run | None]]) -> str:
    """Markdown table of the finished combinations: metrics, evaluations, directories. The best is first and marked."""
    from simmim_pl.evaluation.table import aligned, shown
    from simmim_pl.report.comparison import scores, tasks

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


def write_page(runs: Sequence[Run], path: Path) -> None:
    """The report of several runs side by side."""
    from simmim_pl.report.page import write_report

    if runs:
        write_report([run.folder for run in runs], path)
        print(f"Side by side: {path}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. Exit code 1: a combination failed; 2: the sweep cannot be run; 130: it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m simmim_pl.sweep", description=__doc__, allow_abbrev=False)
    parser.add_argument("sweep", help="YAML of a W&B sweep whose method is grid, such as configs/sweep.yaml")
    parser.add_argument(
        "--runs",
        default="runs",
        help="folder of all runs; what is done in it is not run again, so take another after changing the config",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    options = parser.parse_args(args)
    try:
        config = load_sweep_config(options.sweep)
        failed = run_combinations(config, options.runs, options.dry_run)
        if not options.dry_run:
            finished = finished_runs(config, options.runs)
            print(results_table(config, finished))
            write_page([run for _, run in finished if run], Path(options.runs, f"{Path(options.sweep).stem}.html"))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        from simmim_pl.runtime import atomic

        if (sentence := atomic.explain(error)) is None:
            raise
        parser.exit(2, f"error: {sentence} The same command goes on from here.\n")
    except KeyboardInterrupt:
        parser.exit(130, "Stopped. The same command goes on from here.\n")
    if failed:
        count = len(config.combinations)
        parser.exit(1, f"error: {failed} of {count} combinations failed; the same command tries them again.\n")
