"""Numbers with a range: the command line and Python callers are checked by the type in the signature."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.contracts import InputError
from simmim_pl.runtime import ranges
from simmim_pl.runtime.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Range, Share, ranged


class Part:
    """Has numbers of every kind."""

    @ranged
    def __init__(
        self,
        count: PositiveInt = 1,
        held: NonNegativeInt | Annotated[float, Range("[0, 1)")] = 0.1,
        span: tuple[Share, Share] = (0.1, 1.0),
        rates: Sequence[PositiveFloat | None] | None = None,
        features: PositiveInt | None = None,
    ) -> None:
        self.given = (count, held, span, rates, features)


class Whole(Part):
    """Passes unknown arguments to its base class; its own ``count`` has another meaning."""

    @ranged
    def __init__(self, chance: Probability = 0.5, count: float = -1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": 0}, "count has to be 1 or more, and is 0."),
        ({"held": True}, "held has to be a number, and is True."),
        ({"held": 1.0}, "held has to be within [0, 1), and is 1.0."),
        ({"held": -1}, "held has to be 0 or more, and is -1."),
        ({"held": 3}, None),
        ({"span": (0.0, 1)}, "span has to be within (0, 1], and is 0.0."),
        ({"rates": [1.0, math.nan]}, "rates has to be finite, and is nan."),
        ({"rates": [None, 0]}, "rates has to be above 0, and is 0."),
        ({"rates": [None, 2]}, None),
        ({"features": 0}, "features has to be 1 or more, and is 0."),
        ({"features": None}, None),
    ],
)
@pytest.mark.parametrize("kind", [Part, Whole])
def test_constructors_refuse_values_out_of_range(kind: type, wrong: dict[str, Any], says: str | None) -> None:
    if kind is Whole:
        wrong = {name: value for name, value in wrong.items() if name != "count"}
    if says is None or not wrong:
        kind(**wrong)
        return
    with pytest.raises(InputError) as refused:
        kind(**wrong)
    assert str(refused.value) == says


def test_a_class_has_its_own_and_its_base_classes_ranges() -> None:
    assert set(ranges.argument_ranges(Part)) == {"count", "held", "span", "rates", "features"}
    assert set(ranges.argument_ranges(Whole)) == {"chance", "held", "span", "rates", "features"}
    assert ranges.argument_ranges(int) == {}


@given(st.floats(), st.sampled_from("[("), st.floats(-9, 9), st.floats(-9, 9), st.sampled_from("])"))
def test_intervals_contain_their_values(number: float, start: str, low: float, high: float, end: str) -> None:
    above = low <= number if start == "[" else low < number
    below = number <= high if end == "]" else number < high
    assert (number in Range(f"{start}{low}, {high}{end}")) == (above and below)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_range_contains_non_finite_values(number: float) -> None:
    for kind in (PositiveInt, NonNegativeInt, PositiveFloat, ranges.NonNegativeFloat, Probability, Share, ranges.Seed):
        assert ranges.range_error(kind, number) is not None
