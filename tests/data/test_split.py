"""Holding out images: which ones, how many of each class, as a function of the arguments only."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.split import train_val_split


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[int], int]:
    """Labels of a data set, in any proportion and order, and the number of images to hold out."""
    labels = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=1, max_size=80))
    return labels, draw(st.integers(0, len(labels) - 1))


@settings(deadline=None, max_examples=150)
@given(task=tasks(), seed=st.integers(0, 100))
@example(task=([0] * 10 + [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 7), seed=0)  # one large class, many of a single image
def test_every_class_is_held_out_in_proportion_to_within_one_image(task: tuple[list[int], int], seed: int) -> None:
    labels, number = task
    _, held = train_val_split(len(labels), torch.tensor(labels), number, seed)
    counts = np.bincount(labels)
    of_class = np.bincount(np.array(labels)[held.numpy()], minlength=len(counts))
    assert np.all(np.abs(of_class - counts * number / len(labels)) < 1)


@settings(deadline=None, max_examples=100)
@given(task=tasks(), labelled=st.booleans(), seed=st.integers(0, 100))
def test_parts_are_disjoint_complete_ascending_and_of_the_requested_size(
    task: tuple[list[int], int], labelled: bool, seed: int
) -> None:
    labels, number = task
    kept, held = train_val_split(len(labels), torch.tensor(labels) if labelled else None, number, seed)
    assert len(held) == number
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())


def test_5000_of_50000_images_in_10_classes_are_500_per_class() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(50_000) % 10))
    kept, held = train_val_split(50_000, labels, 5_000, seed=0)
    assert labels[held].bincount().tolist() == [500] * 10
    assert labels[kept].bincount().tolist() == [4_500] * 10


LABELS = torch.arange(600) % 3


@pytest.mark.parametrize("labels", [LABELS, None])
def test_only_the_seed_matters(labels: Tensor | None) -> None:
    torch.manual_seed(1)
    first = train_val_split(600, labels, 60, seed=3)
    torch.manual_seed(2)
    again, other = train_val_split(600, labels, 60, seed=3), train_val_split(600, labels, 60, seed=4)
    assert all(torch.equal(one, same) for one, same in zip(first, again, strict=True))
    assert len(np.intersect1d(first[1], other[1])) < 30  # 6 by chance


@pytest.mark.parametrize("labels", [LABELS, None])
def test_which_images_of_a_class_are_held_out_is_random(labels: Tensor | None) -> None:
    times = torch.zeros(600)
    for seed in range(200):
        times[train_val_split(600, labels, 60, seed)[1]] += 1
    # Each image is held out with probability 1/10: binomial, mean 20, standard deviation 4.2.
    assert times.mean() == 20
    assert 3.5 < times.std() < 5
    assert times.max() < 45


@pytest.mark.parametrize(("amount", "number"), [(0, 0), (0.0, 0), (0.1, 60), (60, 60), (1, 1), (0.9999, None)])
def test_an_amount_below_one_is_a_share_and_others_are_counts(amount: float, number: int | None) -> None:
    if number is None:  # rounds to everything
        with pytest.raises(InputError, match="share below 1"):
            train_val_split(600, LABELS, amount, seed=0)
    else:
        assert len(train_val_split(600, LABELS, amount, seed=0)[1]) == number


def test_a_share_and_its_count_hold_out_the_same_images() -> None:
    assert torch.equal(train_val_split(600, LABELS, 0.25, seed=5)[1], train_val_split(600, LABELS, 150, seed=5)[1])


@pytest.mark.parametrize("amount", [600, 601, 1.0, 1.5, 60.0, -1, -0.5, -0.0001, float("nan"), float("inf")])
def test_negative_amounts_and_whole_sets_are_refused(amount: float) -> None:
    with pytest.raises(InputError, match=f"validation: {amount} cannot be held out"):
        train_val_split(600, LABELS, amount, seed=0)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(InputError, match="of 0 training images"):
        train_val_split(0, None, 0, seed=0)
