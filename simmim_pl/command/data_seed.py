"""The seed of the data is the run's: whoever gives it another is told so."""

from __future__ import annotations

import inspect
from pydoc import locate
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime.ranges import Seed, range_error


def data_seed(seed: Any, data: Any) -> Any:
    """The seed that a config's data gets from ``seed_everything``; an invalid one is refused there, not as the data's.

    - ``data``: the config's, parsed. Its seed is what the class takes by itself, unless somebody has given another.

    Raises:
        InputError: somebody has.
    """
    if range_error(Seed, seed):
        return 0
    given = (getattr(data, "init_args", None) or {}).get("seed", seed)
    if given != seed and given != by_itself(data.class_path):
        raise InputError(
            f"--data.seed {given} would be replaced by --seed_everything {seed}, of which all of a run is drawn: set "
            "--seed_everything alone, and --data.split_seed for another held-out split."
        )
    return seed


def by_itself(class_path: str) -> Any:
    """The seed that a class takes where none is given."""
    kind: Any = locate(class_path)
    known = inspect.signature(kind).parameters.get("seed")
    return known and known.default
