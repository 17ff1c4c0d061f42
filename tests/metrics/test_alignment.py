"""Alignment is the mean squared distance, with its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from simmim_pl.contracts import InputError
from simmim_pl.metrics import alignment

seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(z: torch.Tensor) -> np.ndarray:
    """Rows of length one, in float64."""
    array = z.double().numpy()
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 8), seeds)
def test_alignment_is_the_mean_squared_distance_of_all_pairs_of_views(views, images, width, seed):
    z = normal(views, images, width, seed=seed)
    expected = [np.mean(pdist(unit(z)[:, image]) ** 2) for image in range(images)]
    np.testing.assert_allclose(alignment(z), expected, atol=1e-5)


def test_alignment_knows_its_limits():
    z = normal(1, 500, 64)
    assert alignment(z.expand(3, -1, -1)).abs().max() < 1e-5
    assert alignment(torch.stack([z[0], -z[0]])).mean().item() == pytest.approx(4, abs=1e-5)
    assert alignment(normal(2, 5000, 64)).mean().item() == pytest.approx(2, abs=0.02)
    with pytest.raises(InputError, match="set views to 2"):
        alignment(z)
