"""The mathematics is the same on one process and on several: gloo ranks on the CPU."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from simmim_pl import distributed
from simmim_pl.losses import nt_xent

INPUT = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHT = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def run(rank: int, ranks: int, port: int, work: Callable[[int, int], Any], results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    results[rank] = work(rank, ranks)
    dist.destroy_process_group()


def on_ranks(ranks: int, work: Callable[[int, int], Any]) -> list[Any]:
    """What ``work(rank, ranks)`` returns on each of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(run, (ranks, port, work, results), nprocs=ranks)
        return [results[rank] for rank in range(ranks)]


def step(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and gradient of a shared weight, for views made from the inputs by a linear map each."""
    weight = WEIGHT.clone().requires_grad_()
    loss = nt_xent(torch.einsum("bi,vio->vbo", inputs, weight), temperature=0.2)
    loss.backward()
    return loss.detach(), weight.grad


def parallel_step(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with each rank's share of the images, gradients averaged as DDP does."""
    loss, grad = step(INPUT.chunk(ranks)[rank])
    return distributed.mean(loss), distributed.mean(grad)


def detached_step(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The common mistake: the gather lets no gradient through to the other ranks' rows."""
    original = distributed.gather

    def without_gradient(local: torch.Tensor) -> torch.Tensor:
        rows = list(original(local.detach()).chunk(ranks))
        rows[rank] = local
        return torch.cat(rows)

    distributed.gather = without_gradient
    return parallel_step(rank, ranks)


def uneven(rank: int, ranks: int) -> torch.Tensor:
    return distributed.gather_uneven(torch.full((rank, 2), rank))


@pytest.mark.parametrize("ranks", [2, 4])
def test_loss_and_gradient_equal_one_process(ranks: int) -> None:
    loss, grad = step(INPUT)
    for their_loss, their_grad in on_ranks(ranks, parallel_step):
        torch.testing.assert_close(their_loss, loss, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(their_grad, grad, atol=1e-12, rtol=1e-12)


def test_the_gradient_through_the_gather_is_what_makes_it_equal() -> None:
    loss, grad = step(INPUT)
    for their_loss, their_grad in on_ranks(2, detached_step):
        torch.testing.assert_close(their_loss, loss)  # the loss alone does not show the mistake
        assert (their_grad - grad).norm() > 0.01 * grad.norm()


def test_ranks_may_hold_different_numbers_of_rows() -> None:
    for rows in on_ranks(3, uneven):
        assert rows.tolist() == [[1, 1], [2, 2], [2, 2]]


def test_one_process_is_the_identity() -> None:
    x = torch.rand(3)
    assert distributed.gather(x) is distributed.gather_uneven(x) is distributed.mean(x) is x
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
