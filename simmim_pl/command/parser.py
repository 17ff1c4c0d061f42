"""A command-line parser with one-line errors instead of a page of usage, and with ranges of numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from simmim_pl.command import parse_errors, suggestions
from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic, ranges
from simmim_pl.runtime.yaml_schema import require_bounded_size

read_yaml = get_loader("yaml")


def read_small(text: str) -> Any:
    """jsonargparse's own reader, for YAML that aliases do not make too large to be walked."""
    require_bounded_size(text)
    return read_yaml(text)


set_loader("yaml", read_small, (yaml.YAMLError,))  # of config files, and of values on the command line


class Parser(LightningArgumentParser):
    """LightningCLI's parser that takes no abbreviations, so that a misspelt key is never another key.

    jsonargparse makes one more for every class that a config names, of this class too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ranges: dict[str, Any] = {}  # types of numbers by key
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Also read the ranges that :func:`simmim_pl.runtime.ranges.ranged` attached to a constructor."""
        added: list[str] = super().add_class_arguments(class_type, nested_key, *args, **kwargs)
        before = f"{nested_key}." if nested_key else ""
        hints = {f"{before}{name}": hint for name, hint in ranges.argument_ranges(class_type).items()}
        self.limit({key: hint for key, hint in hints.items() if key in added})
        return added

    def limit(self, hints: dict[str, Any]) -> None:
        """Check numbers against the ranges of these types, and show the ranges in ``--help``."""
        self.ranges |= hints
        for action in self._actions:
            if action.dest in hints:
                shown = ", ".join(dict.fromkeys(ranges.intervals(hints[action.dest])))
                action.help = f"{action.help or ''} Range: {shown}.".lstrip()

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Keep null as null: jsonargparse passes it to nested parsers as the word None."""
        if args and not self.exit_on_error:
            args = [re.sub(r"(=|\[|, |: )None(?=$|[],}])", r"\1null", arg) for arg in args]
        return super().parse_args(args, *more, **kwargs)

    def validate(self, namespace: Any, *args: Any, **kwargs: Any) -> None:
        """Refuse numbers out of their range too. Raises TypeError, as for another type."""
        for key, hint in self.ranges.items():
            if wrong := ranges.range_error(hint, namespace.get(key)):
                raise TypeError(f'Parser key "{key}":\n  {wrong}')
        super().validate(namespace, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong on one line.

        Raises:
            InputError: always.
        """
        if isinstance(refused := getattr(ex, "__cause__", None), InputError):  # of a link between two arguments
            raise refused
        message = suggestions.add_suggestions(message, getattr(ex, "subcommand_parser", self)._actions)
        if not self.exit_on_error:  # a nested parser: the outer one reports the error
            super().error(message, ex)
        line = parse_errors.to_sentence(message)
        end = "" if line.endswith("?") else "."
        raise InputError(f"{line}{end} See {self.prog.replace(' [options]', '')} --help.") from ex

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """A config as YAML. It was checked when it was parsed, and checking again takes longer than the rest."""
        text: str = super().dump(*args, **{"skip_validation": True} | kwargs)
        return text

    def save(self, cfg: Any, path: Any, skip_none: bool = True, **_: Any) -> None:
        """Write a config as one file, atomically, since a resumed run replaces its previous one."""
        text = self.dump(cfg, skip_none=skip_none)
        atomic.write(Path(path), lambda file: file.write(text.encode()))
