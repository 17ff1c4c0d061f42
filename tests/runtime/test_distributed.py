"""Results are the same on one process and on several gloo ranks on the CPU."""

import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from simmim_pl.contracts import Encoder, Features
from simmim_pl.losses import nt_xent
from simmim_pl.runtime import distributed
from tests.forked import start_server

if TYPE_CHECKING:
    from simmim_pl.evaluation.context import EvaluationContext

INPUT = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHT = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def run(rank: int, ranks: int, port: int, work: Callable[[int, int], Any], results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    results[rank] = work(rank, ranks)
    dist.destroy_process_group()


def on_ranks(ranks: int, work: Callable[[int, int], Any]) -> list[Any]:
    """The results of ``work(rank, ranks)`` on each of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_server()
    with mp.Manager() as manager:
        results = manager.dict()
        mp.start_processes(run, (ranks, port, work, results), nprocs=ranks, start_method="forkserver")
        return [results[rank] for rank in range(ranks)]


def step(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, coupled or decoupled, and gradient of a shared weight, for views by linear maps of the inputs."""
    weight = WEIGHT.clone().requires_grad_()
    z = torch.einsum("bi,vio->vbo", inputs, weight)
    loss = nt_xent(z, temperature=0.2) + 2 * nt_xent(z, temperature=0.2, decoupled=True)
    loss.backward()
    return loss.detach(), weight.grad


def parallel_step(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with each rank's share of the images, gradients averaged as DDP does."""
    loss, grad = step(INPUT.chunk(ranks)[rank])
    return distributed.all_reduce_mean(loss), distributed.all_reduce_mean(grad)


def detached_step(rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The common mistake: a gather without gradient to the rows of other ranks."""
    original = distributed.all_gather

    def without_gradient(local: torch.Tensor) -> torch.Tensor:
        rows = list(original(local.detach()).chunk(ranks))
        rows[rank] = local
        return torch.cat(rows)

    distributed.all_gather = without_gradient
    return parallel_step(rank, ranks)


def uneven(rank: int, ranks: int) -> torch.Tensor:
    return distributed.all_gather_uneven(torch.full((rank, 2), rank))


def agreed(rank: int, ranks: int) -> tuple[torch.Tensor, bool, list[bool]]:
    """The mean of a gradient that differs between ranks, whether a parameter without gradient stays without, and
    the agreement on flags that hold on all ranks, on the first only, on all but the first, and on none.
    """
    used, unused = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    (used * torch.tensor([1.0, rank, 3 * rank])).sum().backward()
    distributed.average_gradients([used, unused])
    flags = (True, rank == 0, rank != 0, False)
    return used.grad, unused.grad is None, [distributed.all_ranks(flag) for flag in flags]


class Patches(Encoder):
    """An encoder without batch statistics: its gradient is a mean over images."""

    def __init__(self) -> None:
        super().__init__(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stride=4)
        self.net = torch.nn.Conv2d(3, 4, kernel_size=4, stride=4)

    def forward(self, image: torch.Tensor) -> Features:
        grid = self.net(self.normalize(image)).tanh()
        return Features(pooled=grid.mean((2, 3)), feature_map=grid)


def context(encoder: Encoder, ranks: int) -> "EvaluationContext":
    """Batches of 16 over all ranks."""
    from simmim_pl.data import (  # imported here, so that ranks of other tests do not wait for Lightning
        ImageDataModule,
        Shapes,
    )
    from simmim_pl.evaluation.context import EvaluationContext

    data = ImageDataModule(Shapes(train=60, test=21, size=16, copies=1), batch_size=16, validation=12)
    data.rank_and_world_size = lambda: (distributed.rank(), ranks)  # as with a trainer
    data.setup("fit")
    data.setup("test")
    return EvaluationContext(encoder.requires_grad_(False).eval(), data, "given", torch.device("cpu"), nullcontext)


def evaluated(rank: int, ranks: int) -> dict[str, Any]:
    """Results of training protocols with identity views, and a network fine-tuned on random views."""
    from simmim_pl.encoders import FastCNN
    from simmim_pl.evaluation import AugmentedProbe, DenseProbe, FineTune
    from simmim_pl.evaluation.protocols.finetune import predict
    from simmim_pl.evaluation.training import LRSearch
    from simmim_pl.views import CropFlip

    still = CropFlip(scale=(1, 1), ratio=(1, 1), flip=0)
    search = LRSearch((0.1, 1.0), epochs=2)
    torch.manual_seed(0)
    on, normalised = context(Patches(), ranks), context(FastCNN(2), ranks)
    tuned = FineTune(still, lr=(0.1,), epochs=2).tuned(on, 0.1, 10)
    random = FineTune(CropFlip(), lr=(0.1,), epochs=2).tuned(normalised, 0.1, 10)
    return {
        "augmented": AugmentedProbe(still, search).evaluate(on)[0].entry(),
        "dense": DenseProbe(search).evaluate(on)[0].entry(),
        "tuned": tuned.state_dict(),
        "predicted": predict(tuned, on, "test"),
        "random": random.state_dict(),
        "finetune": FineTune(still, lr=(0.1, 0.2), epochs=1).evaluate(on)[0],
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_loss_and_gradient_equal_one_process(ranks: int) -> None:
    loss, grad = step(INPUT)
    for their_loss, their_grad in on_ranks(ranks, parallel_step):
        torch.testing.assert_close(their_loss, loss, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(their_grad, grad, atol=1e-12, rtol=1e-12)


def test_parity_needs_the_gradient_through_the_gather() -> None:
    loss, grad = step(INPUT)
    for their_loss, their_grad in on_ranks(2, detached_step):
        torch.testing.assert_close(their_loss, loss)  # the loss does not show the mistake
        assert (their_grad - grad).norm() > 0.01 * grad.norm()


def test_ranks_may_hold_different_numbers_of_rows() -> None:
    for rows in on_ranks(3, uneven):
        assert rows.tolist() == [[1, 1], [2, 2], [2, 2]]


def test_collectives_are_the_identity_on_one_process() -> None:
    x = torch.rand(3)
    assert distributed.all_gather(x) is distributed.all_gather_uneven(x) is distributed.all_reduce_mean(x) is x
    assert (distributed.world_size(), distributed.rank()) == (1, 0)


def test_ranks_average_gradients_and_agree_on_flags() -> None:
    for grad, unused, flags in on_ranks(2, agreed):
        assert grad.tolist() == [1, 0.5, 1.5]
        assert unused
        assert flags == [True, False, False, False]


def test_one_process_keeps_its_gradients_and_flags() -> None:
    grad, unused, flags = agreed(rank=2, ranks=1)
    assert grad.tolist() == [1, 2, 6]
    assert unused
    assert flags == [True, False, True, False]


def test_training_protocols_give_the_same_results_on_two_ranks() -> None:
    one, (first, second) = evaluated(0, 1), on_ranks(2, evaluated)
    for name in ("tuned", "random"):  # the ranks end with the same weights and running statistics
        assert all(torch.equal(value, second[name][key]) for key, value in first[name].items())
    for network in ("tuned", "random"):  # and with those of one process
        for name, value in one[network].items():
            torch.testing.assert_close(first[network][name], value, atol=1e-5, rtol=1e-4)
    for mine, theirs, alone in zip(first["predicted"], second["predicted"], one["predicted"], strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(mine, alone)
    for name in ("augmented", "dense", "finetune"):
        assert first[name] == second[name] == one[name]
