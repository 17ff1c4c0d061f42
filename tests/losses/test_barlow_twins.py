"""Barlow Twins compared with a published implementation, the paper's equation in NumPy, and limits."""

import numpy as np
import pytest
import torch
from lightly.loss import BarlowTwinsLoss

from simmim_pl.contracts import InputError
from simmim_pl.losses import BarlowTwins, barlow_twins
from tests.losses.test_nt_xent import projections


@pytest.mark.parametrize(("images", "width"), [(16, 8), (6, 9), (4, 1)])
def test_two_views_equal_lightly_in_value_and_gradient(images: int, width: int) -> None:
    ours, theirs = (projections(2, images, width).requires_grad_() for _ in range(2))
    barlow_twins(ours, 0.2).backward()
    published = BarlowTwinsLoss(0.2)(*theirs)
    published.backward()
    assert barlow_twins(ours, 0.2).item() == pytest.approx(published.item(), rel=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-9)


def test_two_views_are_equation_1_of_numpys_correlations() -> None:
    one, other = projections(2, 12, 4)
    correlation = np.corrcoef(one.T, other.T)[:4, 4:]
    squares = correlation**2
    expected = ((1 - np.diag(correlation)) ** 2).sum() + 0.3 * (squares.sum() - np.diag(squares).sum())
    assert barlow_twins(torch.stack([one, other]), 0.3).item() == pytest.approx(expected, rel=1e-4)  # its epsilon


def test_scale_offset_and_order_of_coordinates_do_not_matter() -> None:
    z = 10 * projections(2, 8, 5)
    moved = z[..., torch.randperm(5)] * torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0]) + 7
    assert barlow_twins(moved).item() == pytest.approx(barlow_twins(z).item(), rel=1e-5)


def test_the_loss_is_between_zero_and_the_width() -> None:
    independent = torch.linalg.qr(projections(1, 64, 8)[0] - projections(1, 64, 8)[0].mean(0)).Q
    assert barlow_twins(100 * independent.expand(2, 64, 8)).item() == pytest.approx(0, abs=1e-6)
    assert barlow_twins(torch.ones(2, 64, 8)).item() == pytest.approx(8)  # nothing correlates


def test_chance_is_the_loss_of_collapse_and_noise_costs_more() -> None:
    loss = BarlowTwins(0.2, scale=0.1)
    chance = loss.at_chance(3, 64, 8)
    assert loss(projections(1, 1, 8).expand(3, 64, 8)).item() == pytest.approx(chance)
    noise = [loss(projections(3, 64, 8, seed=seed)).item() for seed in range(5)]
    assert chance < np.mean(noise) < 2 * chance


def test_the_module_equals_the_function_and_refuses_invalid_weights() -> None:
    z = projections(2, 5, 3)
    assert BarlowTwins(0.2, scale=0.1)(z).item() == pytest.approx(0.1 * barlow_twins(z, 0.2).item())
    for wrong in ({"redundancy": -1.0}, {"scale": 0.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            BarlowTwins(**wrong)
