"""VICReg compared with a published implementation, the paper's equations in NumPy, and its value at chance."""

import numpy as np
import pytest
import torch
from lightly.loss import VICRegLoss

from simmim_pl.contracts import InputError
from simmim_pl.losses import VICReg, vicreg
from tests.losses.test_nt_xent import projections


@pytest.mark.parametrize(("images", "width"), [(16, 8), (6, 9), (2, 1)])
def test_two_views_equal_lightly_in_value_and_gradient(images: int, width: int) -> None:
    ours, theirs = (projections(2, images, width).requires_grad_() for _ in range(2))
    vicreg(ours, 3.0, 5.0, 7.0).backward()
    published = VICRegLoss(3.0, 5.0, 7.0)(*theirs)
    published.backward()
    assert vicreg(ours, 3.0, 5.0, 7.0).item() == pytest.approx(published.item(), rel=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-9)


def test_each_term_is_its_equation() -> None:
    one, other = (0.8 * projections(2, 9, 4)).numpy()
    z = torch.from_numpy(np.stack([one, other]))
    distance = np.mean((one - other) ** 2)
    hinges = [np.maximum(0, 1 - np.sqrt(view.var(0, ddof=1) + 1e-4)).mean() for view in (one, other)]
    covariances = [np.cov(view.T) for view in (one, other)]
    squares = sum((each**2).sum() - (np.diag(each) ** 2).sum() for each in covariances) / 4
    assert vicreg(z, 1, 0, 0).item() == pytest.approx(distance)
    assert vicreg(z, 1, 1, 0).item() == pytest.approx(distance + np.mean(hinges))
    assert vicreg(z, 1, 0, 1).item() == pytest.approx(distance + squares)


def test_shifts_and_order_of_coordinates_do_not_matter() -> None:
    z = projections(2, 8, 5)
    assert vicreg(z[..., torch.randperm(5)] + 3).item() == pytest.approx(vicreg(z).item(), rel=1e-10)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 25.0, 0.0)])
def test_no_noise_is_below_chance(weights: tuple[float, float, float]) -> None:
    loss, noise = VICReg(*weights), projections(2, 4096, 4)
    least = min(loss(std * noise).item() for std in torch.linspace(0, 1.2, 25))
    assert loss.at_chance(2, 4096, 4) == pytest.approx(least, rel=0.05)


def test_the_module_equals_the_function_and_refuses_invalid_weights() -> None:
    z = projections(2, 5, 3)
    assert VICReg(2.0, 3.0, 4.0)(z).item() == vicreg(z, 2.0, 3.0, 4.0).item()
    for wrong in ({"invariance": 0.0}, {"variance": -1.0}, {"covariance": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            VICReg(**wrong)
