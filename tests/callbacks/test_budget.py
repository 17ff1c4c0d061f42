"""A time budget limits the share of a costly operation."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.callbacks import budget
from simmim_pl.callbacks.budget import Budget


@given(
    st.floats(0, 0.5),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10)), min_size=1, max_size=60),
)
def test_cost_is_limited_to_a_share_of_elapsed_time(share: float, turns: list[tuple[int, int]]) -> None:
    clock = SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        allowance, last, ended = Budget(share, guess=1.0), 1.0, 0.0
        for pause, cost in turns:
            clock.now += pause
            assert allowance.allows() == (last <= share * (clock.now - ended))
            if allowance.allows():
                with allowance:
                    clock.now += cost
                last, ended = cost, clock.now


def test_a_failing_call_counts_as_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    allowance = Budget(0.1, guess=0.0)
    assert allowance.allows()

    def fail() -> None:
        with allowance:
            clock.now += 5
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 49
    assert not allowance.allows()
    clock.now += 2
    assert allowance.allows()
