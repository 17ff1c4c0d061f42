"""Muon compared with timm's; its iteration brings singular values near one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from simmim_pl.contracts import InputError
from simmim_pl.optimizers import Muon
from simmim_pl.optimizers import muon as page
from simmim_pl.optimizers.muon import is_matrix, orthogonalise
from tests.conftest import TINY


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 40, 3, padding=1, bias=False), nn.BatchNorm2d(40)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(640, 12), nn.Linear(12, 3)).double()


def trained(make: Callable[[Any], torch.optim.Optimizer], steps: int = 4) -> list[torch.Tensor]:
    net = network()
    parameters = list(net.parameters())
    groups = [{"params": parameters[:4]}, {"params": parameters[4:], "weight_decay": 0.0}]
    optimizer = make(groups)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(5, 3, 6, 6, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "betas": (0.8, 0.95)}


@pytest.mark.parametrize("changed", [{}, SETTINGS, {"lr": 0.05, "weight_decay": 1.0}])
def test_muon_equals_timms_except_for_the_iterations_dtype(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    theirs_exactly = timm.optim.muon.zeropower_via_newtonschulz
    monkeypatch.setattr(
        "timm.optim.muon.zeropower_via_newtonschulz",
        lambda *args, **kwargs: theirs_exactly(*args, **kwargs, dtype=torch.float64),
    )
    ours = trained(lambda groups: Muon(groups, **changed))
    theirs = trained(lambda groups: timm.optim.Muon(groups, nesterov=True, **changed))
    before = list(network().parameters())
    for mine, yours, old in zip(ours, theirs, before, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-12, rtol=1e-12)
        assert not torch.equal(mine, old)


@pytest.mark.parametrize("hardware", [True, False])
def test_the_iteration_uses_bfloat16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, hardware: bool) -> None:
    monkeypatch.setattr(page, "bfloat16_in_hardware", lambda kind: hardware)
    assert orthogonalise([torch.randn(8, 20)]).dtype == (torch.bfloat16 if hardware else torch.float32)
    assert orthogonalise([torch.randn(8, 20, dtype=torch.float64)]).dtype == torch.float64


@given(st.integers(1, 3), st.integers(4, 24), st.integers(4, 24), st.integers(0, 1000))
def test_singular_vectors_stay_and_singular_values_approach_one(count: int, rows: int, columns: int, seed: int) -> None:
    left, values, right = torch.linalg.svd(
        torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        full_matrices=False,
    )
    values = values.clamp(min=0.05 * values[:, :1])  # tiny values need more iterations
    values *= 10.0 ** torch.arange(count)[:, None]  # matrices in one batch have different norms
    found = left.mT @ orthogonalise(list(left @ values.diag_embed() @ right)) @ right.mT
    kept = found.diagonal(dim1=1, dim2=2)
    assert (found - kept.diag_embed()).abs().max() < 1e-10
    assert 0.6 < kept.min() <= kept.max() < 1.3


@pytest.mark.parametrize(
    "shape",
    [(64, 128), (96, 3, 4, 4), (4, 512), (4, 2048), (64,), (1, 8, 8), (8, 1, 3, 3), (3, 64), (5, 3, 2), (64, 3)],
)
def test_the_same_parameters_as_in_timm_are_matrices(shape: tuple[int, ...]) -> None:
    assert is_matrix(torch.empty(shape)) == timm.optim.muon._is_suitable_for_muon(torch.empty(shape))


@pytest.mark.parametrize(
    "layout",
    [
        lambda kernel: kernel.contiguous(memory_format=torch.channels_last),
        lambda kernel: kernel.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),  # not a matrix in memory
    ],
)
def test_memory_layout_does_not_matter(layout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    plain = [torch.randn(40, 6, 3, 3, dtype=torch.float64), torch.randn(8, 40, 1, 1, dtype=torch.float64)]
    pairs = [(kernel.clone(), layout(kernel.clone())) for kernel in plain]
    for kernels in zip(*pairs, strict=True):
        torch.manual_seed(1)
        for kernel in kernels:
            kernel.grad = torch.randn(kernel.shape, dtype=torch.float64)
        Muon(kernels).step()
    for kernel, (one, other) in zip(plain, pairs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
        assert not torch.equal(one, kernel)
        assert one.stride() != other.stride() or one.shape[2] == 1


class Operations(TorchDispatchMode):
    """Counts operations that would launch a GPU kernel, that is, all except views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = any(isinstance(each, torch.Tensor) for each in pytree.tree_leaves((args, result)))
        self.count += tensors and not function.is_view and function is not torch.ops.aten._unsafe_view.default
        assert function is not torch.ops.aten._local_scalar_dense.default, "a GPU would be waited for"
        return result


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(16, 16, 3, bias=False), lambda: nn.BatchNorm2d(16)])
def test_layers_of_one_shape_are_batched(make: Callable[[], nn.Module]) -> None:
    found = []
    for layers in (1, 6):
        parameters = [parameter for _ in range(layers) for parameter in make().parameters()]
        optimizer = Muon(parameters, weight_decay=0.1)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()  # makes the state
        with Operations() as operations:
            optimizer.step()
        found.append(operations.count)
    assert 0 < found[0] == found[1]


def test_a_restored_optimizer_continues_identically() -> None:
    net = network().float()
    optimizer = Muon(net.parameters())
    for _ in range(2):
        net(torch.randn(5, 3, 6, 6)).sum().backward()
        optimizer.step()
    other = copy.deepcopy(net)
    again = Muon(other.parameters())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for network_, each in ((net, optimizer), (other, again)):
        torch.manual_seed(1)
        each.zero_grad()
        network_(torch.randn(5, 3, 6, 6)).sum().backward()
        each.step()
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"weight_decay": -1.0}, {"momentum": 2.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Muon(network().parameters(), **wrong)


def test_a_run_trains_with_muon(cli: Callable[[list[Any]], Path]) -> None:
    run = cli([*TINY, "--model.optimizer=simmim_pl.optimizers.Muon", "--model.optimizer.lr=0.004"])
    (state,) = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert any("momentum_buffer" in each for each in state["state"].values())
