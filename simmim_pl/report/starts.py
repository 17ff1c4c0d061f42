"""With what a run was started, and gone on with: ``run.json``, an entry each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

NAME = "run.json"

# Of an entry: `began`, local time; `steps`, that the run will have taken at its end, none when nobody knows; `device`
# and how many; `precision`; `code`, the commit; `versions`, of packages; `ended`, the step at which it came to its end.
Start = dict[str, Any]


def add(folder: Path, start: Start) -> None:
    """Keep one more start of the run."""
    write(folder, [*starts(folder), start])


def end(folder: Path, step: int) -> None:
    """Keep the step at which the last start came to its end."""
    if found := starts(folder):
        write(folder, [*found[:-1], found[-1] | {"ended": step}])


def write(folder: Path, found: list[Start]) -> None:
    """Replace all starts."""
    text = json.dumps(found, indent=2)
    atomic.write(folder / NAME, lambda file: file.write(f"{text}\n".encode()))


def starts(folder: Path) -> list[Start]:
    """All starts, the first one first. Raises :class:`InputError` when the file cannot be read."""
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if not isinstance(found, list) or not all(isinstance(start, dict) for start in found):
            raise ValueError("it is no list of mappings")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, the run's next start writes it anew.") from error
    return found
