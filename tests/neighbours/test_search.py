"""Neighbours equal scikit-learn's in any block size; pairs, groups and outliers equal their definitions."""

import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from simmim_pl.neighbours.search import groups, nearest_others, outliers, similar_pairs


def rows(number: int = 60, width: int = 5) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [7, 4096])
def test_neighbours_equal_scikit_learn(block: int) -> None:
    near = nearest_others(rows(), 4, block)
    distance, place = NearestNeighbors(n_neighbors=4, metric="cosine").fit(rows()).kneighbors()  # without itself
    torch.testing.assert_close(near.similarity.numpy(), (1 - distance).astype("float32"), atol=1e-6, rtol=1e-5)
    assert near.row.tolist() == place.tolist()


def test_no_row_is_its_own_neighbour_among_equal_ones() -> None:
    near = nearest_others(torch.ones(9, 3), 2)
    assert (near.row != torch.arange(9)[:, None]).all()
    assert near.row.sort(1).values.diff().gt(0).all()
    torch.testing.assert_close(near.similarity, torch.ones(9, 2))


@pytest.mark.parametrize(("threshold", "most"), [(None, 12), (0.8, 1), (None, 10**6), (2.0, 1)])
def test_pairs_are_the_most_similar_ones(threshold: float | None, most: int) -> None:
    unit = torch.nn.functional.normalize(rows(30))
    similarity = unit @ unit.T
    known = [(similarity[i, j].item(), i, j) for i in range(30) for j in range(i + 1, 30)]
    known = sorted(known, reverse=True)[: most if threshold is None else None]
    known = [pair for pair in known if threshold is None or pair[0] >= threshold]
    pairs = similar_pairs(nearest_others(rows(30), 29), threshold, most)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(i, j) for _, i, j in known]
    torch.testing.assert_close(pairs.similarity, torch.tensor([value for value, _, _ in known]))


def test_groups_are_scipys_connected_components() -> None:
    pairs = similar_pairs(nearest_others(rows(), 5), None, 30)
    graph = coo_array((torch.ones(30), (pairs.first, pairs.second)), shape=(60, 60))
    label = connected_components(graph, directed=False)[1]
    expected = {tuple(torch.tensor(label == number).nonzero()[:, 0].tolist()) for number in set(label)}
    found = groups(pairs)
    assert {tuple(group.rows) for group in found} == {group for group in expected if len(group) > 1}
    assert [group.highest for group in found] == sorted((group.highest for group in found), reverse=True)
    for group in found:
        values = [s for i, s in zip(pairs.first.tolist(), pairs.similarity.tolist(), strict=True) if i in group.rows]
        assert (group.lowest, group.highest) == (min(values), max(values))


def test_a_row_unlike_the_others_is_the_first_outlier() -> None:
    near_one = torch.ones(40, 5) + 0.1 * rows(40)
    near_one[17] = torch.tensor([-1.0, 1, -1, 1, -1])
    mean, row = outliers(nearest_others(near_one, 3), 5)
    assert row[0] == 17
    assert mean.tolist() == sorted(mean.tolist())
    assert len(outliers(nearest_others(near_one, 3), 99)[0]) == 40
