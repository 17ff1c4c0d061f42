"""Shares have Wilson's intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from simmim_pl.metrics.shares import Z, interval


@given(hits=st.integers(0, 60), misses=st.integers(0, 60).filter(bool))
def test_the_interval_equals_wilsons(hits: int, misses: int) -> None:
    trials = hits + misses
    expected = binomtest(hits, trials).proportion_ci(2 * norm.cdf(Z) - 1, method="wilson")
    assert interval(hits / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)
