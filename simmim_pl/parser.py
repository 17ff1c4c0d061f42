"""A command-line parser whose errors are one sentence instead of a page of usage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from simmim_pl import durable
from simmim_pl.records import InputError
from simmim_pl.specs import require_small

# Lines in which jsonargparse tells how it validates rather than what is wrong.
SCAFFOLDING = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")


read_yaml = get_loader("yaml")


def read_small(text: str) -> Any:
    """jsonargparse's own reader, for YAML that aliases do not make too large to be walked."""
    require_small(text)
    return read_yaml(text)


set_loader("yaml", read_small, (yaml.YAMLError,))  # of config files, and of values on the command line


class Parser(LightningArgumentParser):
    """LightningCLI's parser that takes no abbreviations, so that a misspelt key is never another key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong on one line.

        Raises:
            InputError: always.
        """
        if not self.exit_on_error:  # a parser inside another, which says it
            super().error(message, ex)
        line = condense(message) + advice(message)
        raise InputError(f"{line}. See {self.prog.replace(' [options]', '')} --help.") from ex

    def save(self, cfg: Any, path: Any, skip_none: bool = True, **_: Any) -> None:
        """Write a config as one file, whole or not at all: of a run that goes on there is one before."""
        text = self.dump(cfg, skip_none=skip_none)
        durable.write(Path(path), lambda file: file.write(text.encode()))


def condense(message: str) -> str:
    """The telling lines of a jsonargparse error, on one line.

    >>> condense('Parser key "model":\\n  Subtypes: [...]\\n  Errors:\\n    - Option \\'widht\\' is not accepted')
    'Parser key "model": Option \\'widht\\' is not accepted'
    """
    lines = (line.strip() for line in message.splitlines())
    telling = [line.removeprefix("- ") for line in lines if line and not line.startswith(SCAFFOLDING)]
    return "; ".join(telling).replace(":; ", ": ").rstrip(".")


def advice(message: str) -> str:
    """What to do about a package that is not there, such as an extra.

    >>> advice("No module named 'timm'. Got value: timm.optim.Muon")
    '. Install timm with pip, if that is its name'
    """
    missing = re.search(r"No module named '(\w+)'", message)
    return f". Install {missing[1]} with pip, if that is its name" if missing else ""
