"""Random numbers depend only on seed, step and the image's position in the batch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simmim_pl.runtime.seeding import make_generator, uniform

CPU = torch.device("cpu")


def draw(seed: int, step: int) -> list[float]:
    return torch.rand(4, generator=make_generator(seed, step, CPU)).tolist()


@settings(deadline=None, max_examples=30)
@given(place=st.tuples(*[st.integers(0, 10**6)] * 2), other=st.tuples(*[st.integers(0, 10**6)] * 2))
def test_random_numbers_depend_on_the_position(place: tuple[int, int], other: tuple[int, int]) -> None:
    torch.manual_seed(0)
    first = draw(*place)
    torch.manual_seed(1)
    assert draw(*place) == first
    assert (draw(*other) == first) == (other == place)


def test_seeds_and_steps_do_not_collide_and_global_state_is_unchanged() -> None:
    assert draw(1, 11) != draw(11, 1)
    before = torch.get_rng_state()
    draw(0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbouring_steps_and_seeds_are_uncorrelated() -> None:
    draws = torch.stack(
        [torch.rand(2000, generator=make_generator(seed, step, CPU)) for step in range(4) for seed in range(4)]
    )
    correlation = torch.corrcoef(draws) - torch.eye(16)
    assert correlation.abs().max() < 5 / 2000**0.5


@given(ranks=st.integers(1, 5), share=st.integers(1, 4), along=st.integers(0, 2))
@settings(deadline=None, max_examples=30)
def test_ranks_together_draw_the_numbers_of_one_process(ranks: int, share: int, along: int) -> None:
    shape = [2, 3, 2]
    shape[along] = share * ranks
    whole = uniform(torch.Generator().manual_seed(make_generator(3, 5, CPU).initial_seed()), *shape, along=along)
    shape[along] = share
    parts = [uniform(make_generator(3, 5, CPU, rank, ranks), *shape, along=along) for rank in range(ranks)]
    dealt = torch.stack(parts, along + 1).flatten(
        along, along + 1
    )  # image j of rank r is image j · ranks + r of the batch
    assert torch.equal(dealt, whole)
