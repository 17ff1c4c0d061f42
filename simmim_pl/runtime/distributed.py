"""Communication between ranks; the only file that uses torch.distributed. With one process nothing is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime.once_differentiable import no_double_backward

ALONE = ContextVar("ALONE", default=False)


def world_size() -> int:
    """Number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not ALONE.get() else 1


@contextmanager
def alone() -> Iterator[None]:
    """In this context nothing is communicated, and this process computes as if it were the only one."""
    before = ALONE.set(True)
    try:
        yield
    finally:
        ALONE.reset(before)


def rank() -> int:
    """Index of this process among the ranks; 0 outside a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(local: Shaped[Tensor, " B *shape"]) -> Shaped[Tensor, " N *shape"]:
    """Concatenate every rank's rows in rank order, ``[B, ...]`` → ``[world size · B, ...]``, with gradient.

    The backward pass sums, over the ranks' losses, the gradients with respect to the local rows. DDP then averages
    parameter gradients over ranks. So what is minimised is the mean of the ranks' losses, which equals the one-process
    loss of the whole batch. All ranks must hold the same number of rows.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = AllGather.apply(local)
    return gathered


def all_reduce_sum(local: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sum a tensor over ranks, without gradient."""
    if world_size() == 1:
        return local
    result = local.detach().clone()
    dist.all_reduce(result)
    return result


class AllGather(torch.autograd.Function):
    """:func:`all_gather` on several ranks. torch's differentiable one is deprecated or private, by version."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return torch.cat(all_gather_list(local.contiguous()))

    @staticmethod
    @no_double_backward
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce_sum(grads[0]).chunk(world_size())[rank()]


def all_gather_list(local: Tensor) -> list[Tensor]:
    """Every rank's tensor, in rank order, without gradient. All must have the same shape."""
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local)
    return parts


def all_gather_uneven(local: Shaped[Tensor, " B *shape"]) -> Shaped[Tensor, " N *shape"]:
    """Concatenate every rank's rows in rank order without gradient; ranks may hold different numbers of rows."""
    if world_size() == 1:
        return local
    counts = torch.cat(all_gather_list(torch.tensor([len(local)], device=local.device)))
    padded = local.new_zeros(int(counts.max()), *local.shape[1:])
    padded[: len(local)] = local.detach()
    return torch.cat([part[:count] for part, count in zip(all_gather_list(padded), counts.tolist(), strict=True)])


def all_reduce_mean(local: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Average a tensor over ranks, without gradient."""
    return all_reduce_sum(local) / world_size() if world_size() > 1 else local


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average gradients over ranks, in place, for networks that are trained outside DDP."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = all_reduce_mean(parameter.grad)


def any_rank(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is true on any rank. Waits for the other ranks, but not for a GPU."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, group=of_processors(dist.group.WORLD))
    return (raised > 0).tolist()


def all_ranks(flag: bool) -> bool:
    """Whether a flag is true on every rank. All ranks get the same answer, so they take the same branch."""
    return not any_rank([not flag])[0]


@lru_cache(maxsize=1)
def of_processors(world: Any) -> Any:
    """A process group of all ranks for CPU tensors (gloo), which NCCL does not support."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


def require_equal_on_all_ranks(facts: Mapping[str, Any]) -> None:
    """Refuse to continue if a value differs between ranks.

    Args:
        facts: values by name, as the error shows them; the same names on every rank.

    Raises:
        InputError: on every rank, with the name and the two values.
    """
    everyone: list[Any] = [None] * world_size()
    if world_size() == 1:
        return
    dist.all_gather_object(everyone, dict(facts))
    for name in facts:
        for other, theirs in enumerate(everyone):
            if theirs.get(name) != everyone[0].get(name):
                raise InputError(
                    f"The devices do not agree on the {name}: it is {everyone[0].get(name)} on rank 0 and "
                    f"{theirs.get(name)} on rank {other}. Start all with the same code, config and data."
                )


def is_connection_error(error: BaseException) -> bool:
    """Whether the connection to another rank was closed."""
    closed = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
    return world_size() > 1 and isinstance(error, RuntimeError) and any(words in str(error) for words in closed)


def is_port_in_use(error: BaseException) -> bool:
    """Whether the process group could not start because MASTER_PORT is in use."""
    return isinstance(error, dist.DistError) and "EADDRINUSE" in str(error)


def rendezvous_store() -> dist.Store | None:
    """The key-value store of the rendezvous, shared by all ranks; ``None`` with one process, or when its host is gone.

    The host is probed first, because torch prints a page of C++ trace when it is gone.
    """
    if world_size() == 1:
        return None
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout=2).close()
    except OSError:
        return None
    return dist.distributed_c10d._get_default_store()
