"""Randomness is a function of seed, step and rank, and of nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simmim_pl.seeding import seeded

CPU = torch.device("cpu")


def draw(seed: int, step: int, rank: int) -> list[float]:
    return torch.rand(4, generator=seeded(seed, step, rank, CPU)).tolist()


@settings(deadline=None, max_examples=30)
@given(place=st.tuples(*[st.integers(0, 10**6)] * 3), other=st.tuples(*[st.integers(0, 10**6)] * 3))
def test_a_place_decides_what_is_drawn_and_another_draws_something_else(
    place: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    first = draw(*place)
    torch.manual_seed(1)
    assert draw(*place) == first
    assert (draw(*other) == first) == (other == place)


def test_digits_do_not_run_together_and_global_state_is_left_alone() -> None:
    assert draw(1, 11, 0) != draw(11, 1, 0) != draw(1, 1, 10)
    before = torch.get_rng_state()
    draw(0, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
