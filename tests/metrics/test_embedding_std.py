"""The embedding std equals NumPy's standard deviation of normalised rows, with its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simmim_pl.metrics import EmbeddingStd, embedding_std
from tests.metrics.test_alignment import normal, unit


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 8), st.integers(1, 5), st.integers(0, 2**31))
def test_it_is_the_standard_deviation_of_normalised_rows(number, width, parts, seed):
    z = normal(number, width, seed=seed) + 0.5
    expected = unit(z).std(0) * np.sqrt(width)
    np.testing.assert_allclose(embedding_std(z), expected, atol=1e-5)
    metric = EmbeddingStd(width)
    for part in z.chunk(parts):
        metric.update(part)
    np.testing.assert_allclose(metric.compute(), expected, atol=1e-4)


def test_it_knows_its_limits():
    assert embedding_std(normal(5000, 64)).mean().item() == pytest.approx(1, abs=0.01)
    assert embedding_std(torch.ones(10, 4)).max().item() == pytest.approx(0, abs=1e-6)
    assert embedding_std(torch.zeros(10, 4)).max() == 0  # a dead network
    flat = normal(1000, 4)
    flat[:, 2] = 0
    assert embedding_std(flat)[2] == 0
