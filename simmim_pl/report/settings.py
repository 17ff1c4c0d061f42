"""A run's config as keys of the command line, and where the configs of several runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Settings = dict[str, Any]


def flat(config: Any, key: str = "") -> Settings:
    """Every setting by its key, as ``--KEY`` sets it: a class is the value of its own key.

    Classes in a list, such as callbacks, go by their names, so that one more does not shift the others.

    >>> flat({"model": {"class_path": "a.B", "init_args": {"x": [1, 2]}}, "calls": [{"class_path": "c.D"}]})
    {'model': 'a.B', 'model.x': [1, 2], 'calls.D': 'c.D'}
    """
    if isinstance(config, Mapping) and "class_path" in config:
        args = config.get("init_args")
        return {key: config["class_path"]} | (flat(args, key) if args else {})
    parts = config if isinstance(config, Mapping) else named(config) if isinstance(config, list) else {}
    if not parts:
        return {key: config}
    found: Settings = {}
    for name, value in parts.items():
        found |= flat(value, f"{key}.{name}" if key else str(name))
    return found


def named(config: list[Any]) -> Settings:
    """Classes in a list by their names, the second of a name with its number; nothing of a list of anything else."""
    if not all(isinstance(value, Mapping) and "class_path" in value for value in config):
        return {}
    found: Settings = {}
    for value in config:
        name = str(value["class_path"]).rsplit(".", 1)[-1]
        count = sum(other == name or other.startswith(f"{name} ") for other in found)
        found[f"{name} {count + 1}" if count else name] = value
    return found


def differences(configs: Sequence[Any]) -> dict[str, list[str]]:
    """By key, in the configs' order, each config's value of what is not the same in all; "–" where there is none.

    >>> differences([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}}])
    {'b.c': ['2', '3'], 'b.d': ['–', '4']}
    """
    settings = [flat(config) for config in configs]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = {key: [str(each[key]) if key in each else "–" for each in settings] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}
