"""LightningCLI that prepares only the parser of the given subcommand."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI


class OneSubcommandCLI(LightningCLI):
    """Saves a tenth of a second for each of the other three subcommands. The command line stays the same.

    If the first word is no subcommand, as in ``--help`` or ``--config FILE fit``, all are prepared.
    """

    def __init__(self, *classes: Any, args: ArgsType = None, **kwargs: Any) -> None:
        words = sys.argv[1:] if args is None else args
        self.asked = words[0] if isinstance(words, list) and words and words[0] in self.subcommands() else None
        super().__init__(*classes, **{"args": args} | kwargs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self.asked in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self._subcommand_method_arguments[subcommand] = []
        return self.init_parser(**kwargs)
