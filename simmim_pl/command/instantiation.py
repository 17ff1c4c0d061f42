"""Build the classes that a config names. A refused argument or a missing package becomes a one-line error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from simmim_pl.command import say_once
from simmim_pl.command.suggestions import add_install_advice
from simmim_pl.contracts import InputError

REFUSALS = (
    ValueError,
    ImportError,
    MisconfigurationException,
)  # what classes, of simmim_pl or not, refuse arguments with


def build(kind: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Build an object. Raises :class:`InputError` if the class refuses its arguments."""
    name = getattr(kind, "__name__", str(kind))
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise InputError(f"{name} cannot be built: it has to define {', '.join(missing)}.")
    with explained(name):
        return kind(*args, **kwargs)


@contextmanager
def explained(name: str, *further: type[Exception]) -> Iterator[None]:
    """In this context a refused argument becomes an :class:`InputError` with ``name``; other errors pass as bugs."""
    refusals: tuple[type[Exception], ...] = (*REFUSALS, *further)
    try:
        yield
    except InputError:
        raise
    except refusals as error:
        raise InputError(f"{name} cannot be built: {add_install_advice(reason(error))}.") from error


def reason(error: BaseException) -> str:
    """An error's message on one line; pydantic errors, which W&B's settings raise, without the details."""
    details = getattr(error, "errors", None)
    if not callable(details):
        return " ".join(str(error).split()).rstrip(".")
    first = details()[0]
    names = [name for name, value in os.environ.items() if value and value in (first["input"], str(first["input"]))]
    where = names[0] if names else ".".join(map(str, first["loc"]))
    return f"{where} is {first['input']}. {first['msg'].rstrip('.')}"


def refusal(error: BaseException) -> str | None:
    """One sentence for a setting that Lightning refuses while running, or for a warning turned into an error."""
    if isinstance(error, Warning):
        return say_once.describe_warning(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    by_lightning = raised_in.startswith("lightning.") and isinstance(error, (ValueError, RuntimeError))
    return f"The trainer cannot continue: {reason(error)}." if by_lightning else None
