"""Fused steps equal unfused ones; explicit settings are kept; Adam's step counts are moved."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.optimizers import Muon
from simmim_pl.runtime.fused_optimizer import fuse, place_steps
from simmim_pl.runtime.resume import apply_changed_hyperparameters, hyperparameters

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def train(net: nn.Module, optimizer: Optimizer, steps: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
    return [weight.detach().clone() for weight in net.parameters()]


@pytest.mark.parametrize(
    ("kind", "options"), [(SGD, {"momentum": 0.9, "weight_decay": 0.1}), (Adam, {}), (AdamW, {"weight_decay": 0.1})]
)
def test_a_fused_step_is_the_same_step(kind: Any, options: dict[str, Any]) -> None:
    plain, fused = network(), network()
    optimizers = [kind(net.parameters(), lr=0.01, **options) for net in (plain, fused)]
    fuse(optimizers[1], CUDA)  # a CPU supports it too
    assert [optimizer.param_groups[0]["fused"] for optimizer in optimizers] == [None, True]
    for one, other in zip(train(plain, optimizers[0]), train(fused, optimizers[1]), strict=True):
        torch.testing.assert_close(one, other)


class Mine(SGD):
    """An optimizer with an unknown step."""


@pytest.mark.parametrize(
    ("make", "device"),
    [
        (lambda given: SGD(given, lr=0.1), CPU),
        (lambda given: AdamW(given, fused=False), CUDA),
        (lambda given: AdamW(given, foreach=True), CUDA),
        (lambda given: AdamW(given, differentiable=True), CUDA),
        (lambda given: Mine(given, lr=0.1), CUDA),
        (RMSprop, CUDA),
        (Muon, CUDA),
    ],
)
def test_explicit_and_unknown_optimizers_are_not_changed(make: Any, device: torch.device) -> None:
    optimizer = make(network().parameters())
    before = hyperparameters(optimizer)
    fuse(optimizer, device)
    assert hyperparameters(optimizer) == before


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (None, "cpu"), (False, "cpu")])
def test_step_counts_are_on_the_required_device(fused: bool | None, place: str) -> None:
    weight = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = Adam([weight])
    optimizer.param_groups[0]["fused"] = fused
    optimizer.state[weight]["step"] = torch.tensor(3.0)
    place_steps(optimizer)
    assert optimizer.state[weight]["step"].device.type == place


def test_a_run_resumes_with_a_fused_optimizer() -> None:
    net = network()
    optimizer = Adam(net.parameters(), lr=0.01)
    configured = hyperparameters(optimizer)
    train(net, optimizer)
    other = copy.deepcopy(net)
    again = Adam(other.parameters(), lr=0.01)
    fuse(again, CUDA)
    now = hyperparameters(again)
    schedule = LambdaLR(again, lambda step: 1.0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not again.param_groups[0]["fused"]  # as in the checkpoint
    apply_changed_hyperparameters(again, schedule, configured, now)
    assert again.param_groups[0]["fused"]
    for one, two in zip(train(net, optimizer), train(other, again), strict=True):
        torch.testing.assert_close(one, two)
