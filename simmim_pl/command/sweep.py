"""``python -m simmim_pl.sweep``: run the grid of a W&B sweep on this machine, one run at a time, without an account."""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from simmim_pl.command.sweep_config import (
    SweepConfig,
    Values,
    build_command,
    describe_values,
    expand,
    load_sweep_config,
    run_name,
)
from simmim_pl.command.sweep_state import markers, newest_run_directory
from simmim_pl.contracts import InputError

FORWARDED_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# A run that ends by one of these was stopped by the user, which stops the sweep. Any other signal is a failed run.
STOP_SIGNALS = [*FORWARDED_SIGNALS, *(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))]
PATIENCE = 60.0  # seconds that a run has to end after Ctrl-C, which the terminal sends to it too


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
        if dry:
            print(shlex.join(training_command(config, values, run)))
            if config.evaluate:
                print(shlex.join(evaluation_command(config, run / "ID")))
            continue
        if all(marker.exists() for marker in markers(config, run)):
            print(f"{told}: done before", flush=True)
            continue
        print(told, flush=True)
        code = run_combination(config, values, run)
        if signal_number(code) in STOP_SIGNALS:
            raise KeyboardInterrupt
        if code:
            print(f"{told}: {describe_exit(code)}", file=sys.stderr, flush=True)
            failed += 1
    return failed


def run_combination(config: SweepConfig, values: Values, run: Path) -> int:
    """Train a combination and evaluate it, each unless it is done. The exit code of the one that failed, or 0."""
    trained, *evaluated = markers(config, run)
    if not trained.exists():
        if code := run_command(training_command(config, values, run)):
            return code
        run.mkdir(parents=True, exist_ok=True)
        trained.touch()
    for marker in evaluated:
        if code := run_command(evaluation_command(config, newest_run_directory(run) or run)):
            return code
        marker.touch()
    return 0


def training_command(config: SweepConfig, values: Values, run: Path) -> list[str]:
    """The command that trains a combination, from its last checkpoint if there is one."""
    return [*build_command(config, values), f"--runs={run.parent}", f"--name={run.name}", "--ckpt_path=last"]


def evaluation_command(config: SweepConfig, folder: Path) -> list[str]:
    """The command that evaluates the run in a directory; a copy of the result card goes next to its checkpoint."""
    checkpoint = folder / "checkpoints/last.ckpt"
    words = expand(config.evaluate, config.program, {})
    return [*words, f"--model.checkpoint={checkpoint}", f"--runs={folder.parent.parent}"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. Exit code 1: a combination failed; 2: the sweep cannot be run; 130: it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m simmim_pl.sweep", description=__doc__, allow_abbrev=False)
    parser.add_argument("sweep", help="YAML of a W&B sweep whose method is grid, such as configs/sweep.yaml")
    parser.add_argument(
        "--runs",
        default="runs",
        help="folder of all runs; finished runs in it are not repeated, so use another one after changing the config",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    options = parser.parse_args(args)
    try:
        config = load_sweep_config(options.sweep)
        failed = run_combinations(config, options.runs, options.dry_run)
        if not options.dry_run:
            from simmim_pl.command import sweep_results  # imports torch, which nothing before needs

            sweep_results.show(config, options.runs, Path(options.runs, f"{Path(options.sweep).stem}.html"))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        from simmim_pl.runtime import atomic

        if (sentence := atomic.explain(error)) is None:
            raise
        parser.exit(2, f"error: {sentence} To resume, run the same command again.\n")
    except KeyboardInterrupt:
        parser.exit(130, "Stopped. To resume, run the same command again.\n")
    if failed:
        count = len(config.combinations)
        parser.exit(1, f"error: {failed} of {count} combinations failed; to retry them, run the same command again.\n")
