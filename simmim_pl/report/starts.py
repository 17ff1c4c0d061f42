"""``run.json``: one entry with device, code and versions for each time a run was started or resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

FILE_NAME = "run.json"

# Keys of an entry: `began`, local time; `steps`, optimizer steps planned in all, or null; `device`, with their number;
# `precision`; `code`, the commit; `versions` of packages; `ended`, the last step if training came to its end.
Start = dict[str, Any]


def add_start(folder: Path, start: Start) -> None:
    """Append an entry."""
    write_starts(folder, [*load_starts(folder), start])


def record_end(folder: Path, step: int) -> None:
    """Record in the last entry the step at which training ended."""
    if found := load_starts(folder):
        write_starts(folder, [*found[:-1], found[-1] | {"ended": step}])


def write_starts(folder: Path, found: list[Start]) -> None:
    """Replace the file."""
    text = json.dumps(found, indent=2)
    atomic.write(folder / FILE_NAME, lambda file: file.write(f"{text}\n".encode()))


def load_starts(folder: Path) -> list[Start]:
    """All entries, oldest first. Raises :class:`InputError` if the file cannot be read."""
    path = folder / FILE_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if not isinstance(found, list) or not all(isinstance(start, dict) for start in found):
            raise ValueError("it is not a list of mappings")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): delete it, the run's next start writes it again."
        ) from error
    return found
