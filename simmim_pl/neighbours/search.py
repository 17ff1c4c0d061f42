"""Search nearest rows, near-duplicates and outliers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.evaluation.protocols.knn import nearest

BLOCK = 4096  # rows that are compared at once


class Near(NamedTuple):
    """The nearest rows of each row, nearest first."""

    similarity: Float[Tensor, "Q k"]  # cosine
    row: Int64[Tensor, "Q k"]


class Pairs(NamedTuple):
    """Pairs of rows, the most similar first."""

    first: Int64[Tensor, " P"]
    second: Int64[Tensor, " P"]  # greater than first
    similarity: Float[Tensor, " P"]


class Group(NamedTuple):
    """Rows that pairs connect, and the range of the similarities of these pairs."""

    rows: list[int]
    lowest: float
    highest: float


def nearest_others(features: Float[Tensor, "N D"], k: int, block: int = BLOCK) -> Near:
    """The k nearest other rows of each row. Every row is compared: ``N² · D`` multiplications.

    Memory is the result and a few ``block²`` and ``block · D`` numbers. A GPU is used if there is one.

    >>> nearest_others(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), 1)
    Near(similarity=tensor([[0.6000],
            [0.8000],
            [0.8000]]), row=tensor([[1],
            [2],
            [1]]))
    """
    everything, found = torch.arange(len(features)), []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for rows in tqdm(everything.split(block), desc="comparing images", disable=len(features) <= block):
        asked = features[rows].to(device)
        similarity, near = (each.cpu() for each in nearest(features, everything, asked, k + 1, block=block))
        own = near == rows[:, None]
        own[~own.any(1), -1] = True  # a row behind k + 1 others that equal it: leave out the last of them
        found.append(Near(similarity[~own].view(-1, k), near[~own].view(-1, k)))
    return Near(*map(torch.cat, zip(*found, strict=True)))


def similar_pairs(near: Near, threshold: float | None, most: int) -> Pairs:
    """Pairs of which one is among the nearest rows of the other.

    Args:
        near: of all rows.
        threshold: smallest similarity of a pair; ``None`` for the most similar pairs, whatever their similarity.
        most: number of pairs without a threshold.
    """
    flat = near.similarity.flatten()
    if threshold is not None:
        place = (flat >= threshold).nonzero()[:, 0]
    else:
        place = flat.topk(min(2 * most, len(flat))).indices  # a pair may be found from both of its sides
    ends = torch.stack([place // near.row.shape[1], near.row.flatten()[place]], dim=1).sort(1).values
    pairs, which = ends.unique(dim=0, return_inverse=True)
    similarity = torch.full((len(pairs),), -2.0).scatter_reduce(0, which, flat[place], "amax")
    order = similarity.argsort(descending=True, stable=True)[: most if threshold is None else None]
    return Pairs(pairs[order, 0], pairs[order, 1], similarity[order].clamp(max=1))


def groups(pairs: Pairs) -> list[Group]:
    """Connected components of pairs, in the order of their most similar pair.

    >>> groups(Pairs(torch.tensor([4, 1, 2]), torch.tensor([5, 2, 3]), torch.tensor([1.0, 0.75, 0.5])))
    [Group(rows=[4, 5], lowest=1.0, highest=1.0), Group(rows=[1, 2, 3], lowest=0.5, highest=0.75)]
    """
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        parent[root(other)] = root(one)
    rows, values = dict[int, list[int]](), dict[int, list[float]]()
    for row in sorted(parent):
        rows.setdefault(root(row), []).append(row)
    for row, value in zip(pairs.first.tolist(), pairs.similarity.tolist(), strict=True):
        values.setdefault(root(row), []).append(value)
    return [Group(rows[key], found[-1], found[0]) for key, found in values.items()]


def outliers(near: Near, most: int) -> tuple[Float[Tensor, " M"], Int64[Tensor, " M"]]:
    """The rows with the smallest mean similarity to their nearest rows: that mean, and the rows, smallest first."""
    mean = near.similarity.mean(1)
    found = mean.topk(min(most, len(mean)), largest=False)
    return found.values, found.indices
