"""SIGReg compared with the paper's algorithm in NumPy, SciPy's integral, the closed form, and limits."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad, trapezoid

from simmim_pl.contracts import InputError
from simmim_pl.losses import SIGReg, sigreg
from simmim_pl.losses.sigreg import epps_pulley
from tests.losses.test_nt_xent import projections


def algorithm(x: np.ndarray) -> float:
    """The statistic of the paper's listing, with complex numbers, over [-3, 3] in the steps of the authors' code."""
    t = np.linspace(-3, 3, 33)
    normal = np.exp(-0.5 * t**2)
    empirical = np.exp(1j * np.outer(x, t)).mean(0)
    return float(trapezoid(np.abs(empirical - normal) ** 2 * normal, t) * len(x))


def integral(x: np.ndarray) -> float:
    """The same, integrated by SciPy."""

    def density(t: float) -> float:
        return float(abs(np.exp(1j * t * x).mean() - np.exp(-t * t / 2)) ** 2 * np.exp(-t * t / 2))

    return len(x) * quad(density, -3, 3)[0]


def closed(x: np.ndarray) -> float:
    """The integral over all t, from those of Gaussians."""
    pairs = np.exp(-((x[:, None] - x) ** 2) / 2).mean()
    alone = np.exp(-(x**2) / 4).mean() * np.sqrt(2)
    return float(len(x) * np.sqrt(2 * np.pi) * (pairs - alone + 1 / np.sqrt(3)))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 0.0), (0.0, 0.5), (2.0, -1.0)])
def test_the_statistic_equals_the_paper_scipy_and_the_closed_form(scale: float, shift: float) -> None:
    x = scale * projections(1, 20, 1)[0] + shift
    ours = epps_pulley(x).item()
    assert ours == pytest.approx(algorithm(x[:, 0].numpy()), rel=1e-12)
    assert ours == pytest.approx(integral(x[:, 0].numpy()), rel=5e-3)
    assert ours == pytest.approx(closed(x[:, 0].numpy()), rel=0.05, abs=0.01)


@pytest.mark.parametrize(("views", "global_views"), [(2, None), (4, None), (4, 2)])
def test_the_loss_equals_the_papers(views: int, global_views: int | None) -> None:
    z, directions = projections(views, 9, 3), projections(1, 3, 5, seed=1)[0]
    directions /= directions.norm(dim=0)
    centre = z[: global_views or views].numpy().mean(0)
    distance = np.mean((z.numpy() - centre) ** 2)
    statistic = np.mean([algorithm(view @ direction) for view in z.numpy() for direction in directions.T.numpy()])
    expected = 0.9 * distance + 0.1 * statistic
    assert sigreg(z, directions, 0.1, global_views).item() == pytest.approx(expected, rel=1e-12)


def test_the_order_of_coordinates_does_not_matter() -> None:
    z, directions, order = projections(2, 9, 4), projections(1, 4, 5, seed=1)[0], torch.randperm(4)
    assert sigreg(z[..., order], directions[order]).item() == pytest.approx(sigreg(z, directions).item(), rel=1e-12)


@pytest.mark.parametrize("images", [128, 1024])
def test_gaussian_projections_have_the_expected_loss(images: int) -> None:
    expected = quad(lambda t: (1 - np.exp(-t * t)) * np.exp(-t * t / 2), -3, 3)[0]
    z = projections(32, images, 16)
    assert SIGReg(weight=1.0, slices=16)(z, torch.Generator().manual_seed(0)).item() == pytest.approx(
        expected, rel=0.15
    )
    assert SIGReg(weight=0.0)(z[:1].expand(2, images, 16)).item() == 0


@pytest.mark.parametrize(("views", "global_views"), [(2, None), (4, 2)])
def test_no_noise_is_below_chance_and_collapse_is_worst(views: int, global_views: int | None) -> None:
    loss, noise = SIGReg(0.02, 64, global_views), projections(views, 256, 32)
    values = [loss(std * noise, torch.Generator().manual_seed(0)).item() for std in np.linspace(0, 1, 21)]
    assert loss.at_chance(views, 256, 32) == pytest.approx(min(values), rel=0.05)
    assert max(values) == values[0] > 2 * min(values)


def test_directions_are_unit_vectors_from_the_generator() -> None:
    z, loss = 2 * projections(2, 64, 6), SIGReg()
    first, again, other = (loss(z, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1))
    assert first == again != other
    drawn = torch.randn(6, 256, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    assert first == pytest.approx(sigreg(z, drawn / drawn.square().sum(0).sqrt()).item(), rel=1e-12)
    assert loss(z).item() != loss(z).item()  # of torch's own generator


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"global_views is 3, and there are 2 views of an image"):
        SIGReg(global_views=3)(projections(2, 4, 3))
    for wrong in ({"weight": 1.5}, {"slices": 0}, {"global_views": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            SIGReg(**wrong)
