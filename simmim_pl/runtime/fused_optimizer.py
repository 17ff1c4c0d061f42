"""torch's own optimizers in one kernel on a GPU, where launching many small ones would take longer than their work."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Have SGD, Adam and AdamW take a step in one kernel on a CUDA device, but for those told ``foreach`` or ``fused``.

    The arithmetic is the same, in another order: weights differ in their last bits from those of torch's default.
    """
    if device.type == "cuda" and type(optimizer) in (SGD, Adam, AdamW):
        for group in optimizer.param_groups:
            if group["foreach"] is None and group["fused"] is None and not group["differentiable"]:
                group["fused"] = True


def place_steps(optimizer: Optimizer) -> None:
    """Put Adam's counts of steps where a group needs them: beside the weights if fused, or else on the CPU.

    A checkpoint brings them from where its own run needed them.
    """
    for group in optimizer.param_groups:
        beside = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device if beside else "cpu")
