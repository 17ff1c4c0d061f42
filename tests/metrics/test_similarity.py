"""Histograms equal NumPy's, and every pair is counted once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simmim_pl.contracts import InputError
from simmim_pl.metrics import Similarities, histogram
from tests.metrics.test_alignment import normal


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50), st.sampled_from([1, 2, 8, 64]))
def test_the_histogram_equals_numpys(values, bins):
    expected, _ = np.histogram(np.array(values, dtype=np.float32), bins=bins, range=(-1, 1))
    assert histogram(torch.tensor(values), bins).tolist() == expected.tolist()


def test_nan_is_not_counted():
    assert histogram(torch.tensor([torch.nan, 0.5, torch.nan]), bins=2).tolist() == [0, 1]


def test_similarities_count_every_pair_once():
    z = normal(3, 10, 6)
    metric = Similarities(bins=20)
    metric.update(z[:, :6])
    metric.update(z[:, 6:])
    found = metric.compute()
    assert found["positive"].sum() == 3 * 10
    assert found["negative"].sum() == 3 * (6 * 5 + 4 * 3)
    same = Similarities(bins=4)
    same.update(z[:1].expand(2, -1, -1))
    assert same.compute()["positive"].tolist() == [0, 0, 0, 10]
    with pytest.raises(InputError, match="bins of 1 or more"):
        Similarities(bins=0)
