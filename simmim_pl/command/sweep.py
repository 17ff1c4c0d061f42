"""``python -m simmim_pl.sweep``: run the grid of a W&B sweep on this machine, one run at a time, without an account."""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from simmim_pl.command.sweep_config import SweepConfig, build_command, describe_values, load_sweep_config, run_name
from simmim_pl.contracts import InputError

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
        raise InputError(f"{command[0]} cannot be started ({error.strerror}): mend the sweep's command.") from error
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
    """Run all combinations that are not finished; a run that was stopped resumes from its checkpoint.

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
        run, told = (
            Path(runs, run_name(config, values)),
            f"[{number}/{len(config.combinations)}] {describe_values(values)}",
        )
        command = [*build_command(config, values), f"--runs={runs}", f"--name={run.name}", "--ckpt_path=last"]
        if dry:
            print(shlex.join(command))
        elif (run / DONE_MARKER).exists():
            print(f"{told}: done before", flush=True)
        else:
            print(told, flush=True)
            code = run_command(command)
            if signal_number(code) in STOP_SIGNALS:
                raise KeyboardInterrupt
            if code:
                print(f"{told}: {describe_exit(code)}", file=sys.stderr, flush=True)
                failed += 1
            else:
                run.mkdir(parents=True, exist_ok=True)
                (run / DONE_MARKER).touch()
    return failed


def newest_run_directory(run: Path) -> Path | None:
    """The newest run directory of a combination that has logged metrics."""
    found = sorted(run.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def last_metrics(folder: Path | None) -> dict[str, float]:
    """The last value of each metric in a run directory; empty for ``None``."""
    found: dict[str, float] = {}
    if folder is not None:
        with (folder / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found |= {key: float(value) for key, value in row.items() if value}
    return found


def results_table(config: SweepConfig, runs: str) -> str:
    """Markdown table of the finished combinations with their metrics and run directories, the best first and marked."""
    columns = list(dict.fromkeys([config.metric, *COLUMNS]))
    done = [(values, Path(runs, run_name(config, values))) for values in config.combinations]
    folders = [(values, newest_run_directory(run)) for values, run in done if (run / DONE_MARKER).exists()]
    rows = [(values, folder, last_metrics(folder)) for values, folder in folders]

    def score(scores: dict[str, float]) -> float:
        """The metric with its sign such that smaller is better; infinite if missing, so that it sorts last."""
        value = scores.get(config.metric, math.nan)
        return math.inf if math.isnan(value) else -value if config.maximise else value

    rows.sort(key=lambda row: score(row[2]))
    best_score = score(rows[0][2]) if rows else math.inf
    lines = [["", *config.combinations[0], *columns, "directory"]]
    lines.append(["---"] * len(lines[0]))
    for values, folder, scores in rows:
        best = "best" if score(scores) == best_score < math.inf else ""
        shown = [f"{scores[column]:.4g}" if column in scores else "–" for column in columns]
        lines.append([best, *map(str, values.values()), *shown, str(folder or "–")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        from simmim_pl.runtime import atomic

        if (sentence := atomic.explain(error)) is None:
            raise
        parser.exit(2, f"error: {sentence} The same command goes on from here.\n")
    except KeyboardInterrupt:
        parser.exit(130, "Stopped. The same command goes on from here.\n")
    if not options.dry_run:
        print(results_table(config, options.runs))
    if failed:
        count = len(config.combinations)
        parser.exit(1, f"error: {failed} of {count} combinations failed; the same command tries them again.\n")
