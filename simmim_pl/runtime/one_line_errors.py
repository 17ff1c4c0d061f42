"""User errors of a command: one line, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic


@contextmanager
def one_line_errors() -> Iterator[None]:
    """In this context an :class:`InputError` or OSError is printed without a traceback, and ends the program."""
    try:
        yield
    except (InputError, OSError) as error:
        print(f"error: {atomic.explain(error) or error}", file=sys.stderr)
        sys.exit(2)
