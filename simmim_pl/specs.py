"""A YAML file that a person wrote, checked: what is wrong with it is one sentence."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from simmim_pl.records import InputError


def load(path: str) -> Any:
    """The content of a YAML file."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it.") from error


def mapping(value: Any, where: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """A mapping that has the keys it must have, and none but those that it may have.

    >>> mapping({"title": "Loss", "line": []}, "A panel", ["title", "lines"])
    Traceback (most recent call last):
    simmim_pl.records.InputError: A panel has the unknown key line: it may have title, lines.
    """
    known = [*required, *optional]
    if not isinstance(value, dict):
        raise InputError(f"{where} has to be a mapping with the keys {', '.join(required or known)}.")
    if unknown := [str(key) for key in value if key not in known]:
        raise InputError(f"{where} has the unknown key {unknown[0]}: it may have {', '.join(known)}.")
    if missing := [key for key in required if key not in value]:
        raise InputError(f"{where} has no {missing[0]}: add it.")
    return value


def text(value: Any, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has to be a text, not {value!r}.")
    return value


def items(value: Any, where: str) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} has to be a list of at least one item, not {value!r}.")
    return value
