"""Near-duplicates as a CSV file, to clean a data set with."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO

from simmim_pl.neighbours.search import Pairs
from simmim_pl.neighbours.table import Table
from simmim_pl.runtime import atomic

SIDE = ("row", "split", "index", "path")
HEAD = ("similarity", *SIDE, *(f"other_{name}" for name in SIDE))


def write_pairs(path: Path, table: Table, pairs: Pairs) -> None:
    """Write all pairs, the most similar first, atomically. Raises :class:`WriteError` when the disk is full."""

    def side(row: int) -> list[object]:
        return [row, *(table.value(name, row) for name in SIDE[1:])]

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        rows = csv.writer(text)
        rows.writerow(HEAD)
        for first, second, similarity in zip(*(column.tolist() for column in pairs), strict=True):
            rows.writerow([f"{similarity:.6f}", *side(first), *side(second)])
        text.detach()  # flushes, and leaves the file open

    atomic.write(path, write)
