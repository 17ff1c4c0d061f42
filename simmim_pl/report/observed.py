"""Data of the last validation for the report's pictures, kept in the run directory as ``observed.npz``."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

NAME = "observed.npz"
PICTURE = "picture: "  # before the names of what a method shows

# By name: `positive`, `negative`, counts of similarities; `singular`, values [D]; `place` [N, 2], `explained` [2] and
# `label` [N] of the map; `shown` [Q, 1 + K, 3, h, w] uint8, `shown_label` [Q, 1 + K] and `similarity` [Q, K], queries
# first, of neighbours; `picture: NAME` [h, w, 3] uint8, of the method; `classes`, names; `step`.
Observed = dict[str, np.ndarray]


def keep(folder: Path, found: Mapping[str, Any]) -> None:
    """Replace the run directory's file by these observations."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in found.items()}
    atomic.write(folder / NAME, lambda file: np.savez(file, **arrays))


def observed(folder: Path) -> Observed:
    """The kept observations; empty without a file. Raises :class:`InputError` if the file cannot be read."""
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if (
                sum(entry.file_size for entry in file.zip.infolist()) > path.stat().st_size
            ):  # the report's own file is not compressed
                raise ValueError("it unpacks to more bytes than it has")
            return dict(file)
    except (OSError, ValueError, EOFError, KeyError, MemoryError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, the next validation writes it again.") from error
