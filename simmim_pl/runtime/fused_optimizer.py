"""Use torch's fused optimizers on a GPU, where many small kernel launches take longer than the arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Set ``fused=True`` for SGD, Adam and AdamW on a CUDA device, unless the user set ``foreach`` or ``fused``.

    The order of operations differs from torch's default, so weights differ in their last bits.
    """
    if device.type == "cuda" and type(optimizer) in (SGD, Adam, AdamW):
        for group in optimizer.param_groups:
            if group["foreach"] is None and group["fused"] is None and not group["differentiable"]:
                group["fused"] = True


def place_steps(optimizer: Optimizer) -> None:
    """Move Adam's step counts to the weights' device if the group is fused or capturable, else to the CPU.

    A checkpoint may come from a run on another device.
    """
    for group in optimizer.param_groups:
        on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device if on_device else "cpu")
