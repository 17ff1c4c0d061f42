"""From a page of jsonargparse's attempts to one sentence about the key, as the user writes it."""

from __future__ import annotations

import ast
import re

from simmim_pl.command.suggestions import advised, closest

# What is said of a value's type; of a type that is not here, its name.
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}
TYPES |= dict.fromkeys(("Sequence", "Iterable"), "a list") | {"dict": "a mapping", "NoneType": "null"}
# Lines in which jsonargparse tells how it goes about it, or what it tried where nothing else fits.
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
VERB = re.compile(r"^(fit|validate|test|predict)\.")


def sentence(message: str) -> str:
    """One sentence of the deepest key that jsonargparse came to; the attempts above it fail because of it.

    >>> sentence('Parser key "model":\\n  Errors:\\n    - Parser key "width":\\n        Expected a <class \\'int\\'>')
    '--model.width has to be a whole number'
    """
    leaves, given = attempts(message)
    deepest = max((keys for keys, _ in leaves), key=len)
    key = VERB.sub("", ".".join(deepest)).replace(".init_args", "")
    tried = list(dict.fromkeys(text for keys, text in leaves if keys == deepest))
    told = [text for text in tried if not text.startswith(("Expected a", "Not a valid"))]
    line = "; ".join(told[: 1 if key else None]) or expected(tried, given.get(deepest, ""))
    return advised(spoken(key, line.rstrip(".")))


def attempts(message: str) -> tuple[list[tuple[tuple[str, ...], str]], dict[tuple[str, ...], str]]:
    """What jsonargparse says, line by line, of which nested keys; and the values that it was given for them."""
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


def expected(tried: list[str], value: str) -> str:
    """Which types a value may be of, in words, and what it is."""
    options: list[str] = []
    types: list[str] = []
    for text in tried:
        wanted, _, got = text.partition(". Got value: ")
        value = value or got
        if literal := re.match(r"Expected a typing\.Literal\[(.+)\]$", wanted):
            options += [str(each) for each in ast.literal_eval(f"[{literal[1]}]")]
        elif of := re.match(r"Expected an? <class '(?:\w+\.)*(\w+)'>$", wanted):
            types += [TYPES.get(of[1], of[1])]
        elif wanted.startswith("Expected an instantiatable class"):
            return "has to be a class before its arguments are given"
    if options:
        return f"has to be one of {', '.join(dict.fromkeys(options))}{is_now(value)}{closest(value, options)}"
    if types := list(dict.fromkeys(each for each in types if each != "null")):
        return f"has to be {' or '.join(types)}{is_now(value)}"
    if kind := re.search(r"Not a valid subclass of (\w+)", tried[0]):
        return f"has to be the class_path of a {kind[1]} and its init_args{is_now(value)}"
    return re.sub(r"Expected a dot import path string: ", "there is no class ", tried[0])


def is_now(value: str) -> str:
    """What a value is, where it is short enough to be told."""
    return f", and is {value}" if value and len(value) < 80 else ""


def spoken(key: str, line: str) -> str:
    """A sentence about a key."""
    if line.startswith("Option "):
        return re.sub(r"'([^']+)'", lambda name: f"--{key}.{name[1]}" if key else f"--{name[1]}", line)
    if required := re.match(r"the following arguments are required: (.+)", line):
        names = [VERB.sub("", name) for name in required[1].split(", ")]
        return " and ".join(f"--{key}.{name}" if key else f"--{name}" for name in names) + (
            " has to be given" if len(names) == 1 else " have to be given"
        )
    if not key:
        return line
    return f"--{key} {line}" if line.startswith("has to be") else f"--{key}: {line}"
