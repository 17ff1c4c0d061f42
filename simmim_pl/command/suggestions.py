"""Suggestions in error messages: the closest key, class or value to a misspelt one, and packages to install."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

NOT_KEYS = ("help", "print_shtab", argparse.SUPPRESS)
CALLABLE_NOISE = re.compile(
    r"Type \S*Callable\[.*?\] expects a function or a callable class: |\. Got value: Namespace\(.*\)$", re.M
)
CLASS_NOT_FOUND = re.compile(
    r"Problem with given class_path '(?P<path>[^']+)':\n\s+(?:module '.+' has no attribute '\w+'|No module named .+)"
    r"|module '.+' has no attribute '\w+'\. Got value: (?P<value>\S+)"
    r"|Expected a dot import path string: (?P<name>[\w.]+)"
)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The closest known word, as the end of an error; empty if none is similar.

    >>> did_you_mean("max_epoch", ["max_epochs", "max_steps"])
    ': did you mean max_epochs?'
    """
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def add_suggestions(message: str, actions: list[argparse.Action]) -> str:
    """Add suggestions to a parser's error.

    Args:
        message: of jsonargparse's exception.
        actions: of the parser, which define the known keys and classes.
    """
    message = CALLABLE_NOISE.sub("", message)
    if choice := re.search(r"invalid choice: '?(\w+)'? \(choose from (.+)\)", message):
        options = choice[2].replace("'", "").split(", ")
        return f"there is no subcommand {choice[1]}{did_you_mean(choice[1], options) or f', only {options}'}"
    if option := re.match(r"(?:Group '(.+)' .+ )?.*(?:[oO]ption '|arguments: --)([\w.+]+)\S*(?: .*)?$", message):
        keys = [action.dest for action in actions if action.dest not in NOT_KEYS and not action.dest.endswith(".help")]
        return describe_unknown_key(".".join(filter(None, option.groups())), keys)
    if inside := re.match(r'Parser key "([\w.]+)"', message):
        help: Any = next((getattr(each, "extra_help", str) for each in actions if each.dest == inside[1]), str)
        classes = help().partition("known subclasses: ")[2].split(", ")
        message = CLASS_NOT_FOUND.sub(lambda found: describe_unknown_class(found, classes), message)
    return message


def describe_unknown_key(key: str, keys: list[str]) -> str:
    """Error for an unknown key, with the closest known one, also if only its first part is misspelt."""
    first, dot, rest = key.partition(".")
    firsts = {each.partition(".")[0] for each in keys} | {"class_path", "init_args"}
    if dot and first not in firsts:
        close = [f"{near}.{rest}" for near in difflib.get_close_matches(first, firsts, n=1)]
    else:
        close = difflib.get_close_matches(key, keys, n=1) or [each for each in keys if key in each.split("_")]
    hint = f"; known are {', '.join(keys)}" if 0 < len(keys) < 25 else ""
    return f"Option '{key}' is not accepted" + (f": did you mean '{close[0]}'?" if close else hint)


def describe_unknown_class(found: re.Match[str], classes: list[str]) -> str:
    """Error for an unknown class, by full or short name. The message is unchanged if its package is not installed."""
    name = found["path"] or found["value"] or found["name"]
    if "." in name and find_spec(name.partition(".")[0]) is None:
        return found[0]
    short = {path.rpartition(".")[2]: path for path in classes}
    near = difflib.get_close_matches(name, classes, n=1) or [
        short[word] for word in difflib.get_close_matches(name.rpartition(".")[2], short, n=1)
    ]
    if not near and "." not in name:  # perhaps not meant as a class
        return found[0]
    return f"there is no class {name}" + (f": did you mean {near[0]}?" if near else "")


def add_install_advice(line: str) -> str:
    """Add how to install a missing package to an error that names it.

    >>> add_install_advice("No module named 'timm'. Got value: timm.optim.Muon")
    "No module named 'timm'. Got value: timm.optim.Muon. Install timm with pip, if that is its name"
    """
    missing = re.search(r"No module named '(\w+)", line)
    return f"{line}. Install {missing[1]} with pip, if that is its name" if missing else line
