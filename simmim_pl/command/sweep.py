"""``python -m simmim_pl.sweep``: the grid of a W&B sweep, run here one after the other and without an account."""

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

from simmim_pl.command.sweep_config import SweepConfig, describe, expand, name, read
from simmim_pl.contracts import InputError

COLUMNS = ("val/knn", "val/probe", "train/loss")
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# What ends the sweep with the run that it ends: of any other signal the run died by itself, as where memory runs out.
STOPS = [*SIGNALS, *(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))]
PATIENCE = 60.0  # seconds in which a run ends after Ctrl-C, which the terminal has sent to it too
DONE = "done"  # an empty file beside the directories of a combination's run


def call(command: list[str]) -> int:
    """The exit code of a command. Stopping this process also stops the command, after its last checkpoint."""
    before = {number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in SIGNALS}
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


def by_signal(code: int) -> int:
    """The signal that an exit code tells of, as Python or as a shell writes it; 0 without one."""
    return -code if code < 0 else max(code - 128, 0)


def ending(code: int) -> str:
    """How a run failed.

    >>> ending(3), ending(137)
    ('failed with exit code 3', 'was killed by SIGKILL')
    """
    names = {number.value: number.name for number in signal.Signals}
    number = by_signal(code)
    return f"was killed by {names[number]}" if number in names else f"failed with exit code {code}"


def carry_out(config: SweepConfig, runs: str, dry: bool = False) -> int:
    """Run what is not done yet; returns how many combinations failed. A run that was stopped goes on."""
    failed = 0
    for number, values in enumerate(config.combinations, 1):
        run, told = Path(runs, name(config, values)), f"[{number}/{len(config.combinations)}] {describe(values)}"
        command = [*expand(config, values), f"--runs={runs}", f"--name={run.name}", "--ckpt_path=last"]
        if dry:
            print(shlex.join(command))
        elif (run / DONE).exists():
            print(f"{told}: done before", flush=True)
        else:
            print(told, flush=True)
            code = call(command)
            if by_signal(code) in STOPS:
                raise KeyboardInterrupt
            if code:
                print(f"{told}: {ending(code)}", file=sys.stderr, flush=True)
                failed += 1
            else:
                run.mkdir(parents=True, exist_ok=True)
                (run / DONE).touch()
    return failed


def newest(run: Path) -> Path | None:
    """The newest directory of a run that has logged anything."""
    found = sorted(run.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def last(folder: Path | None) -> dict[str, float]:
    """The last value of each metric in a run directory."""
    found: dict[str, float] = {}
    if folder is not None:
        with (folder / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found |= {key: float(value) for key, value in row.items() if value}
    return found


def table(config: SweepConfig, runs: str) -> str:
    """What is done as a Markdown table with each run's directory, the best first and marked."""
    columns = list(dict.fromkeys([config.metric, *COLUMNS]))
    done = [(values, Path(runs, name(config, values))) for values in config.combinations]
    folders = [(values, newest(run)) for values, run in done if (run / DONE).exists()]
    rows = [(values, folder, last(folder)) for values, folder in folders]

    def score(scores: dict[str, float]) -> float:
        """The smaller the better; what has no score comes last."""
        value = scores.get(config.metric, math.nan)
        return math.inf if math.isnan(value) else -value if config.maximise else value

    rows.sort(key=lambda row: score(row[2]))
    least = score(rows[0][2]) if rows else math.inf
    lines = [["", *config.combinations[0], *columns, "directory"]]
    lines.append(["---"] * len(lines[0]))
    for values, folder, scores in rows:
        best = "best" if score(scores) == least < math.inf else ""
        shown = [f"{scores[column]:.4g}" if column in scores else "–" for column in columns]
        lines.append([best, *map(str, values.values()), *shown, str(folder or "–")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 1 when a combination failed, 2 when the sweep cannot be run."""
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
        config = read(options.sweep)
        failed = carry_out(config, options.runs, options.dry_run)
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
        print(table(config, options.runs))
    if failed:
        count = len(config.combinations)
        parser.exit(1, f"error: {failed} of {count} combinations failed; the same command tries them again.\n")
