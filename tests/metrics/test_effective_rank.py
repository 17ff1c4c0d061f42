"""Singular values, RankMe and standard deviations equal NumPy's and SciPy's, with their limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from simmim_pl.metrics import EffectiveRank, rankme
from tests.metrics.test_alignment import normal


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 8), st.integers(1, 5), st.integers(0, 2**31))
def test_the_spectrum_equals_numpys(number, width, parts, seed):
    z = normal(number, width, seed=seed) + 0.5
    metric = EffectiveRank(width)
    for part in z.chunk(parts):
        metric.update(part)
    found, array = metric.compute(), z.double().numpy()
    singular = np.linalg.svd(array, compute_uv=False)
    np.testing.assert_allclose(found["singular"][: len(singular)], singular, atol=1e-4 * singular[0])
    assert found["rankme"].item() == pytest.approx(np.exp(entropy(singular)), rel=1e-3)
    about_mean = EffectiveRank(width, centred=True)
    about_mean.update(z)
    singular = np.linalg.svd(array - array.mean(0), compute_uv=False)
    np.testing.assert_allclose(about_mean.compute()["singular"][: len(singular)], singular, atol=1e-4 * singular[0])


def test_rankme_knows_its_limits():
    assert rankme(torch.ones(7)).item() == pytest.approx(7)
    assert rankme(torch.tensor([3.0, 0.0, 0.0])).item() == pytest.approx(1)
    rank = EffectiveRank(16)
    rank.update(normal(5000, 3) @ normal(3, 16, seed=1))
    assert 1 < rank.compute()["rankme"].item() <= 3.001


def test_a_non_finite_row_gives_nan_and_a_collapsed_row_is_handled():
    metric = EffectiveRank(4)
    metric.update(torch.tensor([[1.0, torch.inf, 0.0, 0.0]]))
    assert metric.compute()["rankme"].isnan()
    same = EffectiveRank(64)
    same.update(torch.ones(100, 64))
    assert same.compute()["rankme"].item() == pytest.approx(1, abs=1e-3)
