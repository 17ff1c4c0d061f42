"""Parse and check YAML from a user or a file. Every error is a one-line :class:`InputError`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from simmim_pl.contracts import InputError

# Limits of a config: values with all aliases expanded, and levels of nesting. A usual one has a hundred values and ten
# levels.
MAX_VALUES = 10_000
MAX_DEPTH = 100
MAX_CHARACTERS = 10 * MAX_VALUES  # of all strings of a config together


def require_bounded_size(text: str) -> None:
    """Refuse YAML that is exponentially large once aliases are expanded, or nested too deeply for recursion.

    ``a: &a [x, x]``, ``b: &b [*a, *a]`` and so on doubles with every line ("billion laughs"). This counts the parser's
    events in linear time, before any object is built.

    Raises:
        InputError: more than ``MAX_VALUES`` values, or more than ``MAX_DEPTH`` levels.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) < MAX_DEPTH:  # each level takes a character, so this text cannot exceed either limit
        return
    sizes: dict[str, int] = {}  # values by anchor
    within: list[tuple[str | None, int]] = [(None, 0)]  # anchor and number of values of each open collection
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((event.anchor, 1))
            continue
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            recursive = event.anchor in [name for name, _ in within]  # an alias inside its own anchor
            anchor, size = None, MAX_VALUES if recursive else sizes.get(str(event.anchor), 1)
        if anchor is not None:
            sizes[anchor] = size
        within[-1] = (within[-1][0], within[-1][1] + size)
        if within[-1][1] > MAX_VALUES or len(within) > MAX_DEPTH:
            raise InputError(
                f"This YAML holds more than {MAX_VALUES} values once its aliases are written out, or more than "
                f"{MAX_DEPTH} levels of them: write a smaller one than {text[:40]!r} …"
            )


def parse(text: str) -> Any:
    """Parse YAML text. Raises as :func:`require_bounded_size` does."""
    require_bounded_size(text)
    try:
        return yaml.safe_load(text)
    except (AttributeError, LookupError, ValueError) as error:  # a scalar that does not match its tag or its format
        raise yaml.YAMLError(str(error)) from error


def load(path: str | Path) -> Any:
    """Parse a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or is too large.
    """
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it.") from error


def require_config_size(config: Any, path: str) -> None:
    """Refuse a config from a file that is exponentially large or deep, also in its strings, which may be YAML.

    Raises:
        InputError: it has more than ``MAX_VALUES`` values, ``MAX_DEPTH`` levels or ``MAX_CHARACTERS`` characters.
    """
    length = 0
    for part in walk(config, path, MAX_VALUES, children_with_yaml):
        length += len(part) if isinstance(part, str) else 0
        if length > MAX_CHARACTERS:
            raise InputError(
                f"{path} holds a config of more than {MAX_CHARACTERS} characters, which no run writes: do not use it."
            )


def children(value: Any) -> Collection[Any]:
    """Values of a mapping, items of a list or set; nothing for any other value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else ()


def children_with_yaml(value: Any) -> Collection[Any]:
    """:func:`children`, and the content of a string that is YAML, as which jsonargparse parses it."""
    if not isinstance(value, str):
        return children(value)
    with suppress(yaml.YAMLError, ValueError):
        if not isinstance(parsed := parse(value[: MAX_CHARACTERS + 1]), str):
            return [parsed]
    return ()


def walk(value: Any, path: str, most: int, within: Callable[[Any], Collection[Any]] = children) -> Iterator[Any]:
    """A value and all nested values; a value that is shared by several parents comes once for each.

    Pickle and YAML can share values: ``a = [a, a]``, forty times, needs forty lists and unfolds to 2⁴⁰ values. Later
    code would visit them all, so this walk comes first and stops at a limit.

    Args:
        value: the root.
        path: the file it came from, for errors.
        most: limit on the number of values.
        within: returns the values directly inside a value.

    Raises:
        InputError: there are more than ``most`` values, or more than ``MAX_DEPTH`` levels.
    """
    left, seen = [(value, 0)], 0
    while left:
        part, depth = left.pop()
        seen += 1
        if seen > most or depth > MAX_DEPTH:
            found = f"more than {most} values" if seen > most else f"values nested more than {MAX_DEPTH} deep"
            raise InputError(f"{path} holds {found}, which no run writes: do not use it.")
        yield part
        try:
            left += [(each, depth + 1) for each in reversed(list(within(part)))]
        except (InputError, RecursionError) as error:
            raise InputError(f"{path} holds a string that is nested too deeply or too large: do not use it.") from error


def mapping(value: Any, where: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """Check that a value is a mapping with all required keys and no unknown ones, and return it.

    Args:
        value: from YAML.
        where: what the value is, as subject of the error.
        required: keys that it must have.
        optional: further keys that it may have.

    Raises:
        InputError: it is no mapping, or a key is missing or unknown.

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
    """Check that a value is a non-empty string, and return it. Raises :class:`InputError`."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has to be a string, not {value!r}.")
    return value


def items(value: Any, where: str) -> list[Any]:
    """Check that a value is a non-empty list, and return it. Raises :class:`InputError`."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} has to be a list of at least one item, not {value!r}.")
    return value
