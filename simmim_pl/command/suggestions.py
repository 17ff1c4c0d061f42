"""What was probably meant by a misspelt key, class or value, and by a package that is not there."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

NO_KEYS = ("help", "print_shtab", argparse.SUPPRESS)
CALLABLE = re.compile(
    r"Type \S*Callable\[.*?\] expects a function or a callable class: |\. Got value: Namespace\(.*\)$", re.M
)
NO_CLASS = re.compile(
    r"Problem with given class_path '(?P<path>[^']+)':\n\s+(?:module '.+' has no attribute '\w+'|No module named .+)"
    r"|module '.+' has no attribute '\w+'\. Got value: (?P<value>\S+)"
    r"|Expected a dot import path string: (?P<name>[\w.]+)"
)


def closest(word: str, known: Iterable[str]) -> str:
    """What was probably meant, as the end of a sentence; nothing, if nothing is similar.

    >>> closest("max_epoch", ["max_epochs", "max_steps"])
    ': did you mean max_epochs?'
    """
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def add(message: str, actions: list[argparse.Action]) -> str:
    """Add to a parser's error what was probably meant, among the keys and classes that this parser knows."""
    message = CALLABLE.sub("", message)
    if choice := re.search(r"invalid choice: '?(\w+)'? \(choose from (.+)\)", message):
        options = choice[2].replace("'", "").split(", ")
        return f"there is no subcommand {choice[1]}{closest(choice[1], options) or f', only {options}'}"
    if option := re.match(r"(?:Group '(.+)' .+ )?.*(?:[oO]ption '|arguments: --)([\w.+]+)\S*(?: .*)?$", message):
        keys = [action.dest for action in actions if action.dest not in NO_KEYS and not action.dest.endswith(".help")]
        return unknown(".".join(filter(None, option.groups())), keys)
    if inside := re.match(r'Parser key "([\w.]+)"', message):
        help: Any = next((getattr(each, "extra_help", str) for each in actions if each.dest == inside[1]), str)
        classes = help().partition("known subclasses: ")[2].split(", ")
        message = NO_CLASS.sub(lambda found: no_class(found, classes), message)
    return message


def unknown(key: str, keys: list[str]) -> str:
    """That there is no such key, and which is meant, also where only its first part is misspelt."""
    first, dot, rest = key.partition(".")
    firsts = {each.partition(".")[0] for each in keys} | {"class_path", "init_args"}
    if dot and first not in firsts:
        meant = [f"{near}.{rest}" for near in difflib.get_close_matches(first, firsts, n=1)]
    else:
        meant = difflib.get_close_matches(key, keys, n=1) or [each for each in keys if key in each.split("_")]
    hint = f"; known are {', '.join(keys)}" if 0 < len(keys) < 25 else ""
    return f"Option '{key}' is not accepted" + (f": did you mean '{meant[0]}'?" if meant else hint)


def no_class(found: re.Match[str], classes: list[str]) -> str:
    """That there is no class of a name, full or short; a package that is not there is another matter."""
    name = found["path"] or found["value"] or found["name"]
    if "." in name and find_spec(name.partition(".")[0]) is None:
        return found[0]
    short = {path.rpartition(".")[2]: path for path in classes}
    near = difflib.get_close_matches(name, classes, n=1) or [
        short[word] for word in difflib.get_close_matches(name.rpartition(".")[2], short, n=1)
    ]
    if not near and "." not in name:  # which may be no class at all
        return found[0]
    return f"there is no class {name}" + (f": did you mean {near[0]}?" if near else "")


def advised(line: str) -> str:
    """With what to do about a package that is not there, such as an extra.

    >>> advised("No module named 'timm'. Got value: timm.optim.Muon")
    "No module named 'timm'. Got value: timm.optim.Muon. Install timm with pip, if that is its name"
    """
    missing = re.search(r"No module named '(\w+)", line)
    return f"{line}. Install {missing[1]} with pip, if that is its name" if missing else line
