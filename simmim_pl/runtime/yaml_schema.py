"""YAML that a person or a file brings, checked: what is wrong with it is one sentence."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from simmim_pl.contracts import InputError

# Values in a config, aliases written out, and levels of nesting. Ours have about a hundred, at ten levels.
MOST = 10_000
DEEPEST = 100


def require_small(text: str) -> None:
    """Refuse YAML that aliases make exponentially large, or that is nested too deeply to be walked.

    ``a: &a [x, x]``, ``b: &b [*a, *a]`` and so on doubles with every line. The parser's events are counted, in linear
    time, before anything is built of them.

    Raises:
        InputError: more than ``MOST`` values, or more than ``DEEPEST`` levels.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) < DEEPEST:  # every level takes a character: too short for either
        return
    sizes: dict[str, int] = {}
    within: list[tuple[str | None, int]] = [(None, 0)]  # of each collection that is open, its anchor and values so far
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((event.anchor, 1))
            continue
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            around = event.anchor in [name for name, _ in within]  # it contains itself
            anchor, size = None, MOST if around else sizes.get(str(event.anchor), 1)
        if anchor is not None:
            sizes[anchor] = size
        within[-1] = (within[-1][0], within[-1][1] + size)
        if within[-1][1] > MOST or len(within) > DEEPEST:
            raise InputError(
                f"This YAML holds more than {MOST} values once its aliases are written out, or more than {DEEPEST} "
                f"levels of them: write a smaller one than {text[:40]!r} …"
            )


def parse(text: str) -> Any:
    """What YAML text says. Raises as :func:`require_small` does."""
    require_small(text)
    try:
        return yaml.safe_load(text)
    except (AttributeError, LookupError, ValueError) as error:  # a scalar that its tag, or its form, does not fit
        raise yaml.YAMLError(str(error)) from error


def load(path: str | Path) -> Any:
    """The content of a YAML file."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it.") from error


def mapping(value: Any, where: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """A mapping that has the keys it must have, and none but those that it may have.

    >>> mapping({"title": "Loss", "line": []}, "A panel", ["title", "lines"])
    Traceback (most recent call last):
    simmim_pl.contracts.InputError: A panel has the unknown key line: it may have title, lines.
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
