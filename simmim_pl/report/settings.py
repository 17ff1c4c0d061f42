"""Flatten configs to keys of the command line, and compare those of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Settings = dict[str, Any]


def flatten(config: Any, key: str = "") -> Settings:
    """Flatten a config to settings by dotted key, as in ``--KEY``. A class path is the value of the class's key.

    Classes in a list, such as callbacks, are keyed by class name, so that inserting one does not shift the others.

    Args:
        config: nested mappings and lists.
        key: dotted key of ``config`` itself.

    >>> flatten({"model": {"class_path": "a.B", "init_args": {"x": [1, 2]}}, "calls": [{"class_path": "c.D"}]})
    {'model': 'a.B', 'model.x': [1, 2], 'calls.D': 'c.D'}
    """
    if isinstance(config, Mapping) and "class_path" in config:
        args = config.get("init_args")
        return {key: config["class_path"]} | (flatten(args, key) if args else {})
    parts = config if isinstance(config, Mapping) else by_class_name(config) if isinstance(config, list) else {}
    if not parts:
        return {key: config}
    found: Settings = {}
    for name, value in parts.items():
        found |= flatten(value, f"{key}.{name}" if key else str(name))
    return found


def by_class_name(config: list[Any]) -> Settings:
    """Key the classes in a list by class name, repeated ones with a number; empty if the list holds anything else."""
    if not all(isinstance(value, Mapping) and "class_path" in value for value in config):
        return {}
    found: Settings = {}
    for value in config:
        name = str(value["class_path"]).rsplit(".", 1)[-1]
        count = sum(other == name or other.startswith(f"{name} ") for other in found)
        found[f"{name} {count + 1}" if count else name] = value
    return found


def differences(configs: Sequence[Any]) -> dict[str, list[str]]:
    """Settings that differ between configs, by dotted key: one value per config, "–" where a config lacks the key.

    >>> differences([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}}])
    {'b.c': ['2', '3'], 'b.d': ['–', '4']}
    """
    settings = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = {key: [str(each[key]) if key in each else "–" for each in settings] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}
