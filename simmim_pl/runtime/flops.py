"""Count the floating point operations of a training step of any method, without running it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.runtime import distributed
from simmim_pl.runtime.schedule import parameter_groups


def step_flop(method: Any, batches: Sequence[tuple[float, Mapping[str, Sequence[int]]]], accumulate: int = 1) -> float:
    """FLOP of an optimizer step: forward and backward passes, and the optimizer.

    A multiplication and an addition are two. Matrix products, convolutions and attention count, as in torch's
    FlopCounterMode; elementwise operations do not. So a teacher, a decoder and Muon's products count, and AdamW counts
    as 0. Nothing is computed: the method is copied with fake tensors, which have only shapes.

    Args:
        method: a :class:`simmim_pl.methods.method.Method` before ``fit``.
        batches: kinds of batches in a run, each with its share of the run and the shapes of its tensors by name.
        accumulate: batches per step.

    Raises:
        Exception: whatever the method raises on such batches, or if it reads the values of fake tensors.
    """
    mode = FakeTensorMode()
    fake = faked(method, mode)
    with mode, distributed.alone():
        passes = sum(share * batch_flop(fake, {name: torch.rand(*shape) for name, shape in batch.items()})
                     for share, batch in batches)  # fmt: skip
        optimizer = fake.optimizer(parameter_groups(fake, fake.decay_norm_and_bias))
        with FlopCounterMode(display=False) as counter:
            optimizer.step()
    return accumulate * passes + float(counter.get_total_flops())


def batch_flop(fake: LightningModule, batch: dict[str, Tensor]) -> float:
    """FLOP of forward and backward pass. Attention counts as two matrix products over all pairs of tokens."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output: Any = fake.training_step(batch, 0)
        output["loss"].backward()
    return float(counter.get_total_flops())


def faked(method: Any, mode: FakeTensorMode) -> Any:
    """A copy of a method with fake tensors, attached to a minimal stand-in for the trainer, which logs nothing."""
    known: dict[int, Any] = {id(each): mode.from_tensor(each) for each in chain(method.parameters(), method.buffers())}
    fake: Any = copy.deepcopy(method, known)  # which uses these instead of copies
    rate = SimpleNamespace(param_groups=[{"lr": 0.0}])
    fake._trainer = SimpleNamespace(
        **{"training": True, "sanity_checking": False, "global_rank": 0, "world_size": 1, "global_step": 0},
        **{"fit_loop": SimpleNamespace(total_batch_idx=0), "estimated_stepping_batches": 1, "optimizers": [rate]},
        **{"datamodule": SimpleNamespace(seed=0), "current_epoch": 0, "max_epochs": 1, "max_steps": 1},
    )
    fake.log = fake.log_dict = lambda *args, **kwargs: None
    return fake.train()
