"""Refuse configs in checkpoints that would import code from outside this package."""

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
from simmim_pl.runtime.yaml_schema import MAX_DEPTH, MAX_VALUES, parse

MAX_CHARACTERS = 10 * MAX_VALUES  # of all strings of a config together


def require_safe_imports(spec: Any, path: str, allow: frozenset[str] = frozenset()) -> None:
    """Refuse a config that names a class outside this package, at any depth, unless it is allowed.

    Checked are class paths, and every other string that jsonargparse would import where it expects a class.

    Args:
        spec: the config.
        path: the checkpoint that holds it, for errors.
        allow: class paths outside this package that may be imported.

    Raises:
        InputError: it names such a class, or is too large to be a config, see :func:`walk`.
    """
    length = 0
    for part in walk(spec, path, MAX_VALUES, children_with_yaml):
        if isinstance(part, Mapping) and isinstance(name := part.get("class_path"), str):
            require_allowed_class(name, path, allow)
        elif isinstance(part, str):
            length += len(part)
            for name in importable_names(part[: MAX_CHARACTERS + 1]):
                require_allowed_class(name, path, allow)
        if length > MAX_CHARACTERS:
            raise InputError(
                f"{path} holds a config of more than {MAX_CHARACTERS} characters, none of ours: do not use it."
            )


def children(value: Any) -> Collection[Any]:
    """Values of a mapping, items of a list or set; nothing for any other value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else ()


def children_with_yaml(value: Any) -> Collection[Any]:
    """:func:`children`, and the content of a string that is YAML, because jsonargparse parses strings as YAML too."""
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
            raise InputError(f"{path} holds {found}, which no run of ours writes: do not use it.")
        yield part
        try:
            left += [(each, depth + 1) for each in reversed(list(within(part)))]
        except (InputError, RecursionError) as error:
            raise InputError(f"{path} holds a text that is nested too deeply or too large: do not use it.") from error


def require_allowed_class(name: str, path: str, allow: frozenset[str]) -> None:
    """Raise :class:`InputError` unless a class path is allowed or names a class that this package defines.

    A prefix is not enough: ``simmim_pl.command.cli.os.system`` starts with the package's name too. The class must be in
    a module of this package and be defined there.
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


def importable_names(text: str) -> list[str]:
    """Dotted names in a Python expression, such as ``a.b.C | d.E``, whose first part is an importable module.

    ``a.class`` is not a Python expression, but jsonargparse would still import ``a``, so it counts too.
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
        names = [
            dotted_name(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in inner
        ]
    return [name for name in sorted({*names}) if module_exists(name.partition(".")[0])]


def dotted_name(node: ast.expr) -> str:
    """``a.b.c`` of nested attributes; empty where they do not start at a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def module_exists(module: str) -> bool:
    """Whether a top-level module of this name exists; it is not imported."""
    return bool(module) and (module in sys.modules or find_spec(module) is not None)
