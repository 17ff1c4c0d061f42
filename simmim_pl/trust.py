"""What a checkpoint's config may name: nothing is imported because a file asks for it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import yaml

from simmim_pl.records import InputError


def require_ours(spec: Any, path: str, allow: frozenset[str] = frozenset()) -> None:
    """Refuse what would import from outside this package, however deep in the config it stands, unless allowed.

    That is a class path, and any other string that jsonargparse would take for one where a class is expected.
    """
    if isinstance(spec, Mapping):
        if "class_path" in spec:
            require_class(str(spec["class_path"]), path, allow)
        for part in spec.values():
            require_ours(part, path, allow)
    elif isinstance(spec, (list, tuple, set, frozenset)):
        for part in spec:
            require_ours(part, path, allow)
    elif isinstance(spec, str):
        for name in importable(spec):
            require_class(name, path, allow)
        with suppress(yaml.YAMLError, ValueError):  # jsonargparse reads YAML in strings too
            if not isinstance(meant := yaml.safe_load(spec), str):
                require_ours(meant, path, allow)


def require_class(name: str, path: str, allow: frozenset[str]) -> None:
    """Refuse a class path that is neither allowed nor of a class that this package defines.

    ``simmim_pl.cli.os.system`` begins like one of ours: the class must stand in a module of ours and be defined by us.
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
            f"{path} asks to import {name}, which is not part of simmim_pl: allow it with --model.allow [{name}] if "
            "you trust the file."
        )


def importable(text: str) -> list[str]:
    """Names with dots in a Python expression, such as ``a.b.C | d.E``, whose first part is an importable module."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    whole = sorted(name for name in names if not any(other.startswith(f"{name}.") for other in names))
    roots = {name: name.partition(".")[0] for name in whole}
    return [name for name in whole if roots[name] in sys.modules or find_spec(roots[name]) is not None]
