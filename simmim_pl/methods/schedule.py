"""The learning rate by step, and which parameters weight decay spares."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear from 1/warmup to 1, then half a cosine to 0 at ``steps``.

    >>> [round(warmup_cosine(step, warmup=2, steps=6), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def parameter_groups(module: nn.Module, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Split parameters so that weight decay spares biases and normalisation: the tensors of fewer than two axes."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 or decay_norm_and_bias]
    spared = [p for p in parameters if p.ndim <= 1 and not decay_norm_and_bias]
    groups: list[dict[str, Any]] = [{"params": decayed}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups
