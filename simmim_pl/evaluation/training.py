"""Train small networks on the same batches, each with its own learning rate, in one pass over the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.protocol import best
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, ranged
from simmim_pl.runtime.schedule import REFERENCE_BATCH, warmup_cosine

OptimizerName = Literal["sgd", "adam"]
Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]  # epoch → (inputs, targets)


@dataclass(frozen=True)
class LRSearch:
    """How heads on frozen features are trained: one per learning rate, all on the same batches.

    Attributes:
        lr: candidate learning rates, for 256 items per step.
        optimizer: ``sgd`` with momentum 0.9, or ``adam`` with decoupled weight decay.
        weight_decay: of the optimizer.
        epochs: passes over the training items; the last one counts.
    """

    lr: Sequence[PositiveFloat]
    optimizer: OptimizerName = "sgd"
    weight_decay: NonNegativeFloat = 0.0
    epochs: PositiveInt = 10

    def __post_init__(self) -> None:
        require_some(self.lr)

    def train(
        self,
        head: Callable[[], nn.Module],
        batches: Batches,
        steps: int,
        batch: int,
        context: EvaluationContext,
        ignore: int = -100,
    ) -> dict[float, nn.Module]:
        """Trained heads by learning rate, in eval mode; all start from the same weights.

        - ``batches``: epoch → ``steps`` batches of inputs and targets.
        - ``batch``: items that a step sees over all ranks, to which learning rates are scaled.
        - ``ignore``: target of items that the loss ignores.
        """
        first, scale = seeded_module(head, context), batch / REFERENCE_BATCH
        heads = {lr: copy.deepcopy(first) for lr in sorted(self.lr)}
        optimizers = [
            make_optimizer(self.optimizer, [{"params": each.parameters()}], lr * scale, self.weight_decay)
            for lr, each in heads.items()
        ]
        train(list(heads.values()), optimizers, batches, self.epochs, steps, ignore=ignore)
        return heads


LRSearch.__init__ = ranged(LRSearch.__init__)  # type: ignore[method-assign]


def seeded_module(build: Callable[[], nn.Module], context: EvaluationContext) -> nn.Module:
    """A module whose initial weights are a function of the context's seed, on its device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(context.seed)  # the CPU's only: the fork restores no other
        return build().to(context.device)


def make_optimizer(optimizer: OptimizerName, groups: list[dict], lr: float, weight_decay: float) -> Optimizer:
    """SGD with momentum 0.9, or Adam with decoupled weight decay."""
    if optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return AdamW(groups, lr=lr, weight_decay=weight_decay)


def train(
    networks: Sequence[nn.Module],
    optimizers: Sequence[Optimizer],
    batches: Batches,
    epochs: int,
    steps: int,
    warmup: int = 0,
    ignore: int = -100,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Minimise each network's cross entropy on the same batches. Every learning rate follows a cosine, step by step."""
    total = epochs * steps
    schedules = [LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total)) for optimizer in optimizers]
    for network in networks:
        network.train()
    with torch.enable_grad():
        for epoch in range(epochs):
            for inputs, targets in batches(epoch):
                for network, optimizer, schedule in zip(networks, optimizers, schedules, strict=True):
                    with precision():
                        logits = network(inputs)
                    optimizer.zero_grad()
                    cross_entropy(logits, targets, ignore).backward()
                    distributed.average_gradients(network.parameters())
                    optimizer.step()
                    schedule.step()
    for network in networks:
        network.eval()


def cross_entropy(logits: Tensor, targets: Int64[Tensor, "*shape"] | UInt8[Tensor, "*shape"], ignore: int) -> Tensor:
    """Mean over all targets but those to ignore, in float32; zero when there is none."""
    targets = targets.long()
    total = F.cross_entropy(logits.float(), targets, ignore_index=ignore, reduction="sum")
    return total / (targets != ignore).sum().clamp(min=1)


def choose(accuracy: Mapping[float, float], networks: Mapping[float, nn.Module]) -> float:
    """The learning rate with the highest validation accuracy, among those that did not diverge.

    Raises:
        InputError: all of them diverged.
    """
    finite = {lr for lr, each in networks.items() if all(part.isfinite().all() for part in each.parameters())}
    if not finite:
        raise InputError(f"Training diverged at every learning rate of {sorted(networks)}: add lower ones to lr.")
    return float(best({lr: value for lr, value in accuracy.items() if lr in finite}))


def require_some(lrs: Sequence[float]) -> None:
    """Raises :class:`InputError` unless there is something to train with."""
    if not lrs:
        raise InputError("Training needs at least one learning rate: give lr.")
