"""Each kind of failure is told from the others, and from health."""

import math

import pytest

from simmim_pl.metrics import diagnose

HEALTHY = {
    "representation/rankme": 20.0,
    "representation/std": 0.9,
    "representation/directions": 2.0,
    "information/infonce": 4.0,
    "information/ceiling": math.log(512),
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, set()),
        ({"representation/std": 0.01, "representation/directions": 1.1}, {"complete collapse"}),
        ({"representation/directions": 1.2}, {"dimensional collapse"}),
        ({"representation/directions": 1.5}, {"dimensional collapse"}),  # of huge temperatures
        ({"information/infonce": math.log(512)}, {"saturation"}),
        ({"information/infonce": math.log(20), "information/ceiling": math.log(20)}, set()),
        ({"representation/rankme": math.nan}, {"not finite"}),
        ({"representation/std": math.nan}, {"not finite"}),
        (
            {"representation/directions": 1.2, "information/infonce": 6.23},
            {"dimensional collapse", "saturation"},
        ),
    ],
)
def test_each_kind_is_told_apart(change: dict[str, float], found: set[str]) -> None:
    assert set(diagnose(HEALTHY | change)) == found
    assert diagnose({}) == {}
