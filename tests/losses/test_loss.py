"""Common tests of losses with batch statistics: identities, gradients, precision, and errors."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from simmim_pl.contracts import InputError
from simmim_pl.losses import BarlowTwins, Loss, SIGReg, VICReg, barlow_twins, sigreg, vicreg
from simmim_pl.losses.loss import whole_batch
from tests.losses.test_nt_xent import projections

DIRECTIONS = normalize(projections(1, 5, 7, seed=1)[0], dim=0)  # of 5 coordinates


def sketched(z: torch.Tensor) -> torch.Tensor:
    return sigreg(z, DIRECTIONS if z.dtype == torch.float64 else DIRECTIONS.float(), weight=0.3)


LOSSES = {"vicreg": vicreg, "barlow": barlow_twins, "sigreg": sketched}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
Function = Callable[[torch.Tensor], torch.Tensor]


@every
def test_gradients_equal_finite_differences(loss: Function) -> None:
    z = (0.7 * projections(3, 4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z,))


@every
def test_only_the_pairing_of_views_matters_and_not_their_order(loss: Function) -> None:
    z = projections(3, 6, 5)
    order = torch.randperm(6)
    assert loss(z[:, order]).item() == pytest.approx(loss(z).item(), rel=1e-12)
    assert loss(z.flip(0)).item() == pytest.approx(loss(z).item(), rel=1e-12)
    assert loss(torch.stack([z[0], z[1].roll(1, 0), z[2]])).item() != pytest.approx(loss(z).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [vicreg, barlow_twins])
def test_the_loss_of_more_views_is_the_mean_over_pairs(loss: Function) -> None:
    z = projections(4, 6, 5)
    pairs = torch.stack([loss(z[list(pair)]) for pair in combinations(range(4), 2)])
    assert loss(z).item() == pytest.approx(pairs.mean().item(), rel=1e-12)


@every
def test_float32_whatever_autocast_says(loss: Function) -> None:
    z = projections(2, 32, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, low = loss(z), loss(z.bfloat16())
    assert inside.dtype == low.dtype == torch.float32
    assert inside.item() == loss(z).item()
    assert low.item() == loss(z.bfloat16().float()).item()
    assert loss(z.double()).dtype == torch.float64


@every
@pytest.mark.parametrize(("shape", "says"), [((1, 4, 5), "two|2 or more"), ((2, 1, 5), "batch_size to 2")])
def test_one_view_and_one_image_are_refused(loss: Function, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        loss(torch.ones(shape))


@every
def test_a_collapsed_batch_costs_more_than_a_spread_one_and_has_a_finite_gradient(loss: Function) -> None:
    z = torch.zeros(2, 64, 5, dtype=torch.float64, requires_grad=True)
    loss(z).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    spread = projections(1, 64, 5).expand(2, 64, 5)
    assert loss(spread).item() < 0.5 * loss(z).item()


@pytest.mark.parametrize("loss", [VICReg(), BarlowTwins(), SIGReg(slices=4)])
def test_no_value_is_read_from_the_device(loss: Loss) -> None:
    with FakeTensorMode():  # whose tensors have no values
        z = torch.randn(2, 4, 5, requires_grad=True)
        loss(z).backward()
    assert z.grad is not None
    assert z.grad.shape == z.shape


def test_on_one_rank_the_whole_batch_is_the_ranks_batch() -> None:
    z = projections(2, 3, 4)
    assert whole_batch(z).equal(z)
