"""Axes of rows in batches are scikit-learn's, and those of the map of validation images."""

import torch
from sklearn.decomposition import PCA

from simmim_pl.callbacks.embedding_map import principal
from simmim_pl.callbacks.principal_axes import PrincipalAxes, places
from simmim_pl.runtime.unit_norm import unit


def fitted(rows: torch.Tensor, batch: int = 7) -> PrincipalAxes:
    found = PrincipalAxes(rows.shape[1])
    for part in rows.split(batch):
        found.add(part)
    return found


def test_axes_of_batches_equal_scikit_learn() -> None:
    rows = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5, 3, 1, 1, 1, 1]) + 2
    mean, axes, explained = fitted(rows).fit()
    reference = PCA(2, svd_solver="full").fit(unit(rows).double().numpy())
    flips = torch.tensor(reference.components_).mul(axes.T).sum(1)
    torch.testing.assert_close(flips.abs(), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(explained, torch.tensor(reference.explained_variance_ratio_))
    wanted = torch.tensor(reference.transform(unit(rows).double().numpy())) * flips
    torch.testing.assert_close(places(rows, mean, axes), wanted.float())
    torch.testing.assert_close(places(rows, mean, axes).abs(), principal(unit(rows))[0].abs(), atol=1e-5, rtol=1e-4)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_rows_that_are_not_finite_have_no_place_and_move_no_axis() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([rows, torch.full((1, 4), torch.nan)])
    for one, other in zip(fitted(rows).fit(), fitted(broken).fit(), strict=True):
        assert torch.equal(one, other)
    assert places(broken, *fitted(broken).fit()[:2]).isnan().any(1).nonzero().tolist() == [[30]]


def test_rows_without_two_axes() -> None:
    for rows in (torch.ones(5, 3), torch.full((5, 3), torch.nan), torch.ones(5, 1)):
        mean, axes, explained = fitted(rows).fit()
        assert axes.shape == (rows.shape[1], 2)
        assert not axes.any()
        assert not explained.any()
    mean, axes, explained = fitted(torch.tensor([[1.0], [-1.0], [2.0]])).fit()  # of one feature: signs
    assert explained.tolist() == [1.0, 0.0]
    assert places(torch.tensor([[3.0], [-1.0]]), mean, axes)[:, 1].tolist() == [0.0, 0.0]
