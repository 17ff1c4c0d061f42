"""A part of gpu.py: rows, printed when they are complete, and a description of the machine."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import torch

ROOT = Path(__file__).parents[1]


@dataclass
class Row:
    """A row of the table: a value, and its limit if there is one."""

    name: str
    figure: float | None = None
    unit: str = ""
    limit: float | None = None
    limited_by: str = ""
    note: str = ""

    def __str__(self) -> str:
        figure = "" if self.figure is None else f"{digits(self.figure)} {self.unit}"
        limit = "" if self.limit is None else f"{digits(self.limit)}, {self.limited_by}"
        share = f"{100 * self.figure / self.limit:.0f} %" if self.limit and self.figure is not None else ""
        return f"| {self.name} | {'; '.join(filter(None, (figure, self.note)))} | {limit} | {share} |"


@dataclass
class Job:
    """A part of a section, which can fail or be skipped independently."""

    section: str
    name: str
    rows: Callable[[], Iterator[Row]]


def digits(value: float) -> str:
    """Format all integer digits, or three significant digits of a small number."""
    if math.isnan(value):
        return "?"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def table(jobs: Iterable[Job], only: Iterable[str], seconds: float, out: Path | None) -> None:
    """Run the jobs of some sections and print their rows; write them as JSON too.

    - ``seconds``: no job is started after this time. A skipped or failed job has a row that says so.
    """
    began, found = time.perf_counter(), []
    print("| | figure | limit | share |\n|---|---|---|---|")
    for job in jobs:
        if job.section not in only:
            continue
        since = time.perf_counter()
        for row in tried(job, since - began < seconds):
            print(row, flush=True)
            found.append({"section": job.section} | asdict(row) | {"seconds": time.perf_counter() - since})
        if out:  # after each job, in case the next one crashes
            out.write_text(json.dumps({"about": about(), "rows": found}, indent=1))


def tried(job: Job, in_time: bool = True) -> Iterator[Row]:
    """A job's rows, or a row with its error."""
    if not in_time:
        yield Row(job.name, note="skipped, the time limit was reached")
        return
    try:
        yield from job.rows()
    except Exception as error:
        said = str(error).strip().rpartition("\n")[2].replace("|", "/")
        yield Row(job.name, note=f"{type(error).__name__}: {said}")


def about() -> str:
    """Device, processor, versions, commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    processor = f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"
    return f"{device}; {processor}; {versions}; commit {said.stdout.strip() or 'unknown'}"
