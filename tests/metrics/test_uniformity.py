"""Uniformity is a mean over all pairs, for any block size, with its limits."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from simmim_pl.contracts import InputError
from simmim_pl.metrics import uniformity
from tests.metrics.test_alignment import normal, unit

module = sys.modules["simmim_pl.metrics.uniformity"]  # in the package the name is the function's


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(1, 8), st.sampled_from([0.5, 2.0]), st.integers(1, 100), st.integers(0, 2**31))
def test_uniformity_is_the_log_mean_potential_of_all_pairs(number, width, t, block, seed):
    z = normal(number, width, seed=seed)
    expected = np.log(np.mean(np.exp(-t * pdist(unit(z)) ** 2)))
    before, module.BLOCK_PAIRS = module.BLOCK_PAIRS, block
    try:
        assert uniformity(z, t).item() == pytest.approx(expected, abs=1e-4)
    finally:
        module.BLOCK_PAIRS = before


def test_uniformity_knows_its_limits():
    assert uniformity(torch.ones(10, 3)).item() == pytest.approx(0, abs=1e-5)
    width = 256
    assert uniformity(normal(3000, width)).item() == pytest.approx(-4 + 8 / width, abs=0.01)
    with pytest.raises(InputError, match="there is one only"):
        uniformity(torch.ones(1, 3))
