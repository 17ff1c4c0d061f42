"""Custom backward functions refuse second derivatives; first derivatives are not affected."""

import pytest
import torch
from torch import nn

from simmim_pl.contracts import InputError
from simmim_pl.cpu.small_grids import convolution
from simmim_pl.losses import nt_xent
from simmim_pl.runtime.sync_batchnorm import SyncBatchNorm
from tests.runtime.test_distributed import on_ranks


def refused(value: torch.Tensor, of: torch.Tensor) -> str:
    """Check that the gradient exists, and return the error of its derivative."""
    (gradient,) = torch.autograd.grad(value, of, retain_graph=True)
    assert gradient.abs().max() > 0
    with pytest.raises((InputError, RuntimeError)) as error:
        twice(value, of)
    return str(error.value)


def twice(value: torch.Tensor, of: torch.Tensor) -> None:
    (first,) = torch.autograd.grad(value, of, create_graph=True)
    torch.autograd.grad(first.square().sum(), of)


def test_nt_xent_refuses_a_second_derivative():
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert "LogPartition has a first derivative only" in refused(nt_xent(z), z)


def test_a_small_grid_convolution_refuses_a_second_derivative():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, requires_grad=True)
    assert "no autograd formula" in refused(convolution(x, weight, (1, 1), (1, 1)).square().sum(), x)


def on_a_rank(rank: int, ranks: int) -> list[str]:
    from simmim_pl.runtime import distributed

    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    layer = nn.BatchNorm1d(3)
    layer.__class__ = type("Synchronised", (SyncBatchNorm, nn.BatchNorm1d), {})
    return [refused(distributed.all_gather(x).pow(3).sum(), x), refused(layer(x).pow(3).sum(), x)]


def test_gather_and_sync_batchnorm_refuse_a_second_derivative():
    for gathering, norm in on_ranks(2, on_a_rank):
        assert "Gather has a first derivative only" in gathering
        assert "Normalize has a first derivative only" in norm
