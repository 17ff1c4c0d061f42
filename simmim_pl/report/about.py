"""How far a run is, how long it took and with what, for people."""

from __future__ import annotations

from collections.abc import Sequence

from simmim_pl.report.run import Run
from simmim_pl.report.settings import differences


def about(runs: Sequence[Run]) -> dict[str, list[str]]:
    """By name: progress, time taken and left, start, device, precision, commit, versions, of each run what is known."""
    found = {"Progress": [progress(run) for run in runs], "Time": [spent(run) for run in runs]}
    found |= {name: [told(run, name.lower()) for run in runs] for name in ("Began", "Device", "Precision", "Code")}
    found["Versions"] = [", ".join(f"{name} {number}" for name, number in versions(run).items()) for run in runs]
    return {name: row for name, row in found.items() if any(row)}


def apart(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What differs between runs: their settings, then device, code and versions; a value for each run."""
    found = differences([run.config for run in runs])
    found |= differences([{name: told(run, name) for name in ("device", "code")} | versions(run) for run in runs])
    return {key: row for key, row in found.items() if key != "ckpt_path"}


def told(run: Run, name: str) -> str:
    """What every start of the run says, once where it is the same."""
    return " → ".join(dict.fromkeys(str(start[name]) for start in run.starts if start.get(name)))


def versions(run: Run) -> dict[str, str]:
    """The versions of the last start."""
    return dict(run.starts[-1].get("versions") or {}) if run.starts else {}


def progress(run: Run) -> str:
    """The last step that is known, of how many, and its epoch."""
    if "train/loss" not in run.history:
        return ""
    epoch = f", epoch {steps(run) / run.epoch:.3g}" if run.epoch else ""
    whole = f" of {run.starts[-1]['steps']}" if run.starts and run.starts[-1].get("steps") else ""
    return f"step {steps(run)}{whole}{epoch}"


def spent(run: Run) -> str:
    """The time that training took, what was lost to a kill not counted, and what is left at this rate."""
    if "train/seconds" not in run.history:
        return ""
    at, seconds = (float(values[-1]) for values in run.history["train/seconds"])
    start = run.starts[-1] if run.starts else {}
    taken = f"{duration(seconds)} taken"
    if start.get("ended") or not start.get("steps"):
        return taken
    return f"{taken}, about {duration(max(start['steps'] - steps(run), 0) * seconds / (at + 1))} left"


def steps(run: Run) -> int:
    """Optimizer steps that are over, as far as is known."""
    logged = max(float(at[-1]) for at, _ in run.history.values()) + 1
    return int(run.starts[-1].get("ended") or logged) if run.starts else int(logged)


def duration(seconds: float) -> str:
    """A time in its two greatest units.

    >>> [duration(seconds) for seconds in (7.2, 61, 3600, 200_000)]
    ['7 s', '1 min 1 s', '1 h 0 min', '2 d 7 h']
    """
    total = round(seconds)
    for unit, name, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= unit:
            return f"{total // unit} {name} {total % unit // part} {below}"
    return f"{total} s"
