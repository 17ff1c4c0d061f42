"""What a checkpoint's config may name: nothing is imported because a file asks for it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import yaml

from simmim_pl.contracts import InputError
from simmim_pl.runtime.yaml_schema import DEEPEST, MOST, parse

LONGEST = 10 * MOST  # characters of all strings of a config together


def require_ours(spec: Any, path: str, allow: frozenset[str] = frozenset()) -> None:
    """Refuse what would import from outside this package, however deep in the config it stands, unless allowed.

    That is a class path, and any other string that jsonargparse would take for one where a class is expected.

    Raises:
        InputError: it names such a thing, or is too large to be a config, see :func:`parts`.
    """
    length = 0
    for part in parts(spec, path, MOST, meaning):
        if isinstance(part, Mapping) and isinstance(name := part.get("class_path"), str):
            require_class(name, path, allow)
        elif isinstance(part, str):
            length += len(part)
            for name in importable(part[: LONGEST + 1]):
                require_class(name, path, allow)
        if length > LONGEST:
            raise InputError(f"{path} holds a config of more than {LONGEST} characters, none of ours: do not use it.")


def held(value: Any) -> Collection[Any]:
    """The values that a mapping or a list holds."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else ()


def meaning(value: Any) -> Collection[Any]:
    """The values that a value of a config holds: jsonargparse reads YAML in strings too."""
    if not isinstance(value, str):
        return held(value)
    with suppress(yaml.YAMLError, ValueError):
        if not isinstance(meant := parse(value[: LONGEST + 1]), str):
            return [meant]
    return ()


def parts(value: Any, path: str, most: int, within: Callable[[Any], Collection[Any]] = held) -> Iterator[Any]:
    """A value and all values within it, each as often as it stands there.

    Pickle and YAML can share a value: ``a = [a, a]``, forty times, is 2⁴⁰ values in forty. Whoever walks a config
    meets all of them, so the first walk is one that stops.

    Raises:
        InputError: they are more than ``most``, or lie more than ``DEEPEST`` levels deep.
    """
    left, seen = [(value, 0)], 0
    while left:
        part, depth = left.pop()
        seen += 1
        if seen > most or depth > DEEPEST:
            found = f"more than {most} values" if seen > most else f"values nested more than {DEEPEST} deep"
            raise InputError(f"{path} holds {found}, which no run of ours writes: do not use it.")
        yield part
        try:
            left += [(each, depth + 1) for each in reversed(list(within(part)))]
        except (InputError, RecursionError) as error:
            raise InputError(f"{path} holds a text that is nested too deeply or too large: do not use it.") from error


def require_class(name: str, path: str, allow: frozenset[str]) -> None:
    """Refuse a class path that is neither allowed nor of a class that this package defines.

    ``simmim_pl.command.cli.os.system`` begins like one of ours: the class must stand in a module of ours and be
    defined by us.
    """
    if name in allow:
        return
    place, _, last = name.rpartition(".")
    found: Any = object
    if name.startswith("simmim_pl.") and all(part.isidentifier() for part in name.split(".")):
        try:
            found = vars(import_module(place))[last]
        except (ModuleNotFoundError, KeyError) as error:
            raise InputError(
                f"{path} describes an encoder that this version cannot build: there is no class {name}."
            ) from error
    if not inspect.isclass(found) or not found.__module__.startswith("simmim_pl."):
        raise InputError(
            f"{path} asks to import {name[:200]}, which is not part of simmim_pl: allow it with "
            f"--model.allow [{name[:200]}] if you trust the file."
        )


def importable(text: str) -> list[str]:
    """Names with dots in a Python expression, such as ``a.b.C | d.E``, whose first part is an importable module.

    A word that is no name in Python, such as ``a.class``, is one for jsonargparse, which would import ``a``.
    """
    text = text.strip()
    if "." in text and all(part.isidentifier() for part in text.split(".")):
        names = [text]
    else:
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names = [dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in inner]
    return [name for name in sorted({*names}) if known(name.partition(".")[0])]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of nested attributes; empty where they do not start at a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def known(module: str) -> bool:
    """Whether there is a module of this name, which is not imported to find out."""
    return bool(module) and (module in sys.modules or find_spec(module) is not None)
