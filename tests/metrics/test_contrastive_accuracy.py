"""Contrastive accuracy equals scikit-learn's nearest neighbour, also in blocks and on ranks."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from simmim_pl.losses.nt_xent import contrastive_accuracy as of_training
from simmim_pl.metrics import ContrastiveAccuracy, contrastive_accuracy
from tests.metrics.test_alignment import normal


def projections(views: int, images: int, noise: float, seed: int = 0) -> torch.Tensor:
    """Views of images that are equal except for noise, in float64."""
    torch.manual_seed(seed)
    return torch.randn(images, 6, dtype=torch.float64) + noise * torch.randn(views, images, 6, dtype=torch.float64)


def expected(z: torch.Tensor) -> float:
    rows, images = z.flatten(0, 1).numpy(), z.shape[1]
    near = NearestNeighbors(n_neighbors=2, metric="cosine").fit(rows).kneighbors(rows, return_distance=False)
    return float((near[:, 1] % images == near[:, 0] % images).mean())


@settings(deadline=None, max_examples=40)
@given(
    views=st.integers(2, 4),
    images=st.integers(2, 40),
    noise=st.sampled_from([0.1, 0.7, 3.0]),
    block=st.integers(1, 500),
    seed=st.integers(0, 1000),
)
def test_it_equals_scikit_learns_nearest_neighbour(
    views: int, images: int, noise: float, block: int, seed: int
) -> None:
    z = projections(views, images, noise, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[contrastive_accuracy.__module__], "BLOCK_PAIRS", block)
        assert contrastive_accuracy(z).item() == pytest.approx(expected(z))
    assert contrastive_accuracy(z).item() == pytest.approx(of_training(z).item())


def test_limits() -> None:
    assert contrastive_accuracy(projections(2, 100, 0.0)).item() == 1
    assert contrastive_accuracy(normal(2, 500, 6)).item() < 0.02  # chance is 1 of 999


def test_the_metric_compares_images_of_all_updates() -> None:
    z, metric = projections(2, 90, 0.7), ContrastiveAccuracy()
    for part in z.split(20, dim=1):
        metric.update(part)
    assert metric.compute().item() == pytest.approx(expected(z))
    within = torch.stack([contrastive_accuracy(part) for part in z.split(30, dim=1)]).mean()
    assert metric.compute() < within  # among more images the task is harder


def test_bfloat16_does_not_create_ties() -> None:
    z = (3 + 0.1 * projections(2, 64, 0.5)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_accuracy(z).item() == pytest.approx(expected(z.double()), abs=0.01)
