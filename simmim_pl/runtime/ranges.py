"""Annotated number types with a range, for signatures. Command line and constructors refuse values outside it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ParamSpec, Union, get_args, get_origin, get_type_hints

from simmim_pl.contracts import InputError

P = ParamSpec("P")


@dataclass(frozen=True)
class Range:
    """An interval of numbers in mathematical notation: ``Range("(0, 1]")`` excludes 0 and includes 1.

    >>> one = Range("(0, inf)")
    >>> 1 in one, 0 in one, float("inf") in one, float("nan") in one
    (True, False, False, False)
    """

    interval: str

    def __contains__(self, number: float) -> bool:
        low, high = (float(end) for end in self.interval[1:-1].split(","))
        above = number >= low if self.interval[0] == "[" else number > low
        below = number <= high if self.interval[-1] == "]" else number < high
        return above and below

    def __str__(self) -> str:
        low, high = self.interval[1:-1].split(", ")
        if high != "inf":
            return f"within {self.interval}"
        return f"{low} or more" if self.interval[0] == "[" else f"above {low}"


PositiveInt = Annotated[int, Range("[1, inf)")]  #: 1 or more
NonNegativeInt = Annotated[int, Range("[0, inf)")]  #: 0 or more
Seed = Annotated[int, Range("[0, 4294967295]")]  #: what Lightning's seed_everything takes
PositiveFloat = Annotated[float, Range("(0, inf)")]  #: above 0
NonNegativeFloat = Annotated[float, Range("[0, inf)")]  #: 0 or more
Probability = Annotated[float, Range("[0, 1]")]  #: 0 to 1
Share = Annotated[float, Range("(0, 1]")]  #: above 0, to 1


def range_error(hint: Any, value: Any) -> str | None:
    """Check a number, or each number of a list, against the ranges in its type.

    Args:
        hint: type annotation.
        value: the argument.

    Returns:
        The predicate of an error sentence, or ``None`` if the value is in range.

    >>> range_error(tuple[Probability, Probability] | None, (0.5, 2.0))
    'has to be within [0, 1], and is 2.0'
    >>> range_error(PositiveInt | None, 1)
    """
    if get_origin(hint) in (Union, UnionType):
        verdicts = [range_error(part, value) for part in matching_alternatives(hint, value)]
        return None if None in verdicts else next(iter(verdicts), None)
    if isinstance(value, (list, tuple)):
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        each = parts if len(parts) == len(value) else parts[:1] * len(value)
        return next(filter(None, map(range_error, each, value)), None)
    if get_origin(hint) is not Annotated or not isinstance(value, (int, float)):
        return None
    if isinstance(value, bool):
        return f"has to be a number, and is {value}"
    wrong = [each for each in hint.__metadata__ if isinstance(each, Range) and value not in each]
    return f"has to be {wrong[0] if math.isfinite(value) else 'finite'}, and is {value}" if wrong else None


def matching_alternatives(hint: Any, value: Any) -> list[Any]:
    """The members of a union to check a value against: for a number those of its own type, if there are any."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if isinstance(value, (list, tuple)):
        return [part for part in parts if get_origin(part) not in (None, Annotated)]
    own = [part for part in parts if type(value) in (part, *get_args(part)[:1])]
    return own or [part for part in parts if get_origin(part) is Annotated]


def intervals(hint: Any) -> Iterator[str]:
    """All intervals in a type annotation, as ``--help`` shows them.

    >>> list(intervals(PositiveInt | Probability))
    ['[1, inf)', '[0, 1]']
    """
    yield from (each.interval for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range))
    for part in () if get_origin(hint) is Annotated else get_args(hint):
        yield from intervals(part)


def ranged(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate a constructor to raise :class:`InputError` for numbers outside the ranges in its signature."""
    signature = inspect.signature(init)

    @functools.cache
    def hints() -> dict[str, Any]:
        return get_type_hints(init, include_extras=True)

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if wrong := range_error(hints().get(name), value):
                raise InputError(f"{name} {wrong}.")
        init(*args, **kwargs)

    checked.ranges = hints  # type: ignore[attr-defined]
    return checked


def argument_ranges(kind: type) -> dict[str, Any]:
    """Types of a class's constructor arguments that have ranges, by name; a subclass overrides its base classes."""
    found: dict[str, Any] = {}
    for init in filter(None, (vars(each).get("__init__") for each in reversed(kind.__mro__))):
        hints: dict[str, Any] = getattr(init, "ranges", dict)()
        found |= hints or dict.fromkeys(getattr(init, "__annotations__", ()))
    return {name: hint for name, hint in found.items() if list(intervals(hint))}
