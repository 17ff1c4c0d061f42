"""Facts about a run as text: progress, time, device, precision, code and versions."""

from __future__ import annotations

from collections.abc import Sequence

from simmim_pl.report.run import Run
from simmim_pl.report.settings import differences


def run_facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Facts by name (progress, time, start, device, precision, commit, versions), each with one text per run.

    Unknown facts of a run are empty; facts that are unknown for all runs are left out.
    """
    found = {"Progress": [progress(run) for run in runs], "Time": [training_time(run) for run in runs]}
    found |= {
        name: [values_over_starts(run, name.lower()) for run in runs]
        for name in ("Began", "Device", "Precision", "Code")
    }
    found["Versions"] = [
        ", ".join(f"{name} {number}" for name, number in package_versions(run).items()) for run in runs
    ]
    return {name: row for name, row in found.items() if any(row)}


def run_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings, then device, code and versions, that differ between runs: by name, one value per run."""
    found = differences([run.config for run in runs])
    found |= differences(
        [{name: values_over_starts(run, name) for name in ("device", "code")} | package_versions(run) for run in runs]
    )
    return {key: row for key, row in found.items() if key != "ckpt_path"}


def values_over_starts(run: Run, name: str) -> str:
    """The values of a fact over all starts of a run, without repeats, joined by arrows."""
    return " → ".join(dict.fromkeys(str(start[name]) for start in run.starts if start.get(name)))


def package_versions(run: Run) -> dict[str, str]:
    """Package versions at the last start of a run."""
    return dict(run.starts[-1].get("versions") or {}) if run.starts else {}


def progress(run: Run) -> str:
    """Last known step, total steps and epoch."""
    if "train/loss" not in run.history:
        return ""
    epoch = f", epoch {completed_steps(run) / run.epoch:.3g}" if run.epoch else ""
    whole = f" of {run.starts[-1]['steps']}" if run.starts and run.starts[-1].get("steps") else ""
    return f"step {completed_steps(run)}{whole}{epoch}"


def training_time(run: Run) -> str:
    """Training time, without steps lost to a kill, and the remaining time at the same speed."""
    if "train/seconds" not in run.history:
        return ""
    at, seconds = (float(values[-1]) for values in run.history["train/seconds"])
    start = run.starts[-1] if run.starts else {}
    taken = f"{format_duration(seconds)} taken"
    if start.get("ended") or not start.get("steps"):
        return taken
    return f"{taken}, about {format_duration(max(start['steps'] - completed_steps(run), 0) * seconds / (at + 1))} left"


def completed_steps(run: Run) -> int:
    """Number of completed optimizer steps, as far as it was logged."""
    logged = max(float(at[-1]) for at, _ in run.history.values()) + 1
    return int(run.starts[-1].get("ended") or logged) if run.starts else int(logged)


def format_duration(seconds: float) -> str:
    """A time in its two largest units.

    Args:
        seconds: the time.

    >>> [format_duration(seconds) for seconds in (7.2, 61, 3600, 200_000)]
    ['7 s', '1 min 1 s', '1 h 0 min', '2 d 7 h']
    """
    total = round(seconds)
    for unit, name, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= unit:
            return f"{total // unit} {name} {total % unit // part} {below}"
    return f"{total} s"
