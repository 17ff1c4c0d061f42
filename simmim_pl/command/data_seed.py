"""The seed of the data is that of the run; another one is an error."""

from __future__ import annotations

import inspect
from pydoc import locate
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime.ranges import Seed, range_error


def data_seed(seed: Any, data: Any) -> Any:
    """The seed for the datamodule, from ``seed_everything``; 0 if that is invalid, which is reported elsewhere.

    - ``data``: the parsed config of the datamodule. It has the class's default seed unless the user set another.

    Raises:
        InputError: the user set another.
    """
    if range_error(Seed, seed):
        return 0
    given = (getattr(data, "init_args", None) or {}).get("seed", seed)
    if given != seed and given != by_itself(data.class_path):
        raise InputError(
            f"--data.seed {given} would be replaced by --seed_everything {seed}, which seeds the whole run: set only "
            "--seed_everything, and --data.split_seed for another held-out split."
        )
    return seed


def by_itself(class_path: str) -> Any:
    """The default seed of a class."""
    kind: Any = locate(class_path)
    known = inspect.signature(kind).parameters.get("seed")
    return known and known.default
