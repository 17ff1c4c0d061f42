"""Turn jsonargparse's multi-line errors into one line about the key, as the user writes it."""

from __future__ import annotations

import ast
import re

from simmim_pl.command.suggestions import add_install_advice, did_you_mean

# Words for types in errors; other types are called by their name.
TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}
TYPE_NAMES |= dict.fromkeys(("Sequence", "Iterable"), "a list") | {"dict": "a mapping", "NoneType": "null"}
# Beginnings of lines that describe jsonargparse's procedure, not the error.
SCAFFOLDING = (
    *(
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Problem with given class_path",
        "Expected a path but",
    ),
    *("Subclass types expect", "a class path (str)", "a dict with"),
)
SUBCOMMAND = re.compile(r"^(fit|validate|test|predict)\.")


def to_sentence(message: str) -> str:
    """One sentence about the most deeply nested key in an error: the levels above fail because of it.

    >>> to_sentence('Parser key "model":\\n Errors:\\n  - Parser key "width":\\n    Expected a <class \\'int\\'>')
    '--model.width has to be a whole number'
    """
    leaves, given = split_attempts(message)
    deepest = max((keys for keys, _ in leaves), key=len)
    key = SUBCOMMAND.sub("", ".".join(deepest)).replace(".init_args", "")
    tried = list(dict.fromkeys(text for keys, text in leaves if keys == deepest))
    reasons = [text for text in tried if not text.startswith(("Expected a", "Not a valid"))]
    line = "; ".join(reasons[: 1 if key else None]) or describe_expected(tried, given.get(deepest, ""))
    return add_install_advice(name_key(key, line.rstrip(".")))


def split_attempts(message: str) -> tuple[list[tuple[tuple[str, ...], str]], dict[tuple[str, ...], str]]:
    """Parse jsonargparse's error.

    Returns:
        Pairs of nested keys and a line about them, and the given values by nested keys.
    """
    keys: list[tuple[int, str]] = []
    leaves: list[tuple[tuple[str, ...], str]] = []
    given: dict[tuple[str, ...], str] = {}
    for line in filter(str.strip, message.splitlines()):
        text = line.lstrip(" -")
        indent, text = len(line) - len(text), text.rstrip()
        inside = re.match(r'Parser key "([\w.]+)"(?: element \d+)?:\s*(.*)$', text)
        keys = [(depth, key) for depth, key in keys if depth < indent + (not inside)]
        if inside:
            known = bool(inside[2] and keys) and keys[-1][1] == inside[1]
            keys, text = [*keys, *[(indent, inside[1])][known:]], inside[2]
        place = tuple(key for _, key in keys)
        if text.startswith("Given value: ") and "NestedArg(" not in text:
            given.setdefault(place, text.removeprefix("Given value: "))
        if text and not text.startswith(SCAFFOLDING):
            leaves.append((place, text))
    return leaves or [((), " ".join(message.split()))], given


def describe_expected(tried: list[str], value: str) -> str:
    """The predicate of an error: which types or choices a key accepts, and the value it has.

    Args:
        tried: jsonargparse's lines about the types that it tried.
        value: the given value, or empty.
    """
    options: list[str] = []
    types: list[str] = []
    for text in tried:
        wanted, _, got = text.partition(". Got value: ")
        value = value or got
        if literal := re.match(r"Expected a typing\.Literal\[(.+)\]$", wanted):
            options += [str(each) for each in ast.literal_eval(f"[{literal[1]}]")]
        elif of := re.match(r"Expected an? <class '(?:\w+\.)*(\w+)'>$", wanted):
            types += [TYPE_NAMES.get(of[1], of[1])]
        elif wanted.startswith("Expected an instantiatable class"):
            return "has to be a class before its arguments are given"
    if options:
        return (
            f"has to be one of {', '.join(dict.fromkeys(options))}{describe_value(value)}{did_you_mean(value, options)}"
        )
    if types := list(dict.fromkeys(each for each in types if each != "null")):
        return f"has to be {' or '.join(types)}{describe_value(value)}"
    if kind := re.search(r"Not a valid subclass of (\w+)", tried[0]):
        return f"has to be the class_path of a {kind[1]} and its init_args{describe_value(value)}"
    return re.sub(r"Expected a dot import path string: ", "there is no class ", tried[0])


def describe_value(value: str) -> str:
    """``, and is VALUE`` as the end of an error; empty for a missing or long value."""
    return f", and is {value}" if value and len(value) < 80 else ""


def name_key(key: str, line: str) -> str:
    """Make a line about a key a sentence, with the key as on the command line."""
    if line.startswith("Option "):
        return re.sub(r"'([^']+)'", lambda name: f"--{key}.{name[1]}" if key else f"--{name[1]}", line)
    if required := re.match(r"the following arguments are required: (.+)", line):
        names = [SUBCOMMAND.sub("", name) for name in required[1].split(", ")]
        return " and ".join(f"--{key}.{name}" if key else f"--{name}" for name in names) + (
            " has to be given" if len(names) == 1 else " have to be given"
        )
    if not key:
        return line
    return f"--{key} {line}" if line.startswith("has to be") else f"--{key}: {line}"
