"""Learning rate by batch size and step, and parameter groups for weight decay, in pretraining and evaluation."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from simmim_pl.contracts import InputError

REFERENCE_BATCH = 256  # images per optimizer step to which the learning rates in configs refer


def effective_batch(trainer: Any) -> int:
    """Images per optimizer step, over all accumulated batches and devices.

    Raises:
        InputError: neither the datamodule nor the DataLoader has a ``batch_size``.
    """
    size = getattr(trainer.datamodule, "batch_size", None)
    if size is None:
        trainer.fit_loop.setup_data()
        per_device = getattr(trainer.train_dataloader, "batch_size", None)
        if per_device is None:
            raise InputError(
                "The learning rate is for 256 images per step, and the training DataLoader does not say how many a "
                "batch has: make it with a batch_size, or pass Trainer.fit a datamodule such as "
                "simmim_pl.data.ImageDataModule."
            )
        size = per_device * trainer.world_size
    return int(size * trainer.accumulate_grad_batches)


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear warm-up from 1/warmup to 1, then cosine decay to 0 at ``steps``.

    Args:
        step: optimizer step, from 0.
        warmup: steps of warm-up.
        steps: optimizer steps in all.

    >>> [round(warmup_cosine(step, warmup=2, steps=6), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def require_valid_lr(optimizer: OptimizerCallable, groups: list[dict[str, Any]]) -> None:
    """Build the optimizer once to check its settings before training.

    Args:
        optimizer: makes an optimizer from parameter groups.
        groups: parameter groups.

    Raises:
        InputError: a learning rate is negative or not finite.
        ValueError: torch's optimizer refuses another setting.
    """
    if any(group["params"] for group in groups):
        for group in optimizer(groups).param_groups:
            if not 0 <= group["lr"] < math.inf:
                raise InputError(f"The optimizer's lr has to be a finite number, 0 or more, and is {group['lr']}.")


def parameter_groups(module: nn.Module, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay.

    Args:
        module: its trainable parameters.
        decay_norm_and_bias: apply weight decay to all. Otherwise what :func:`without_weight_decay` finds gets none.
    """
    spared = set() if decay_norm_and_bias else without_weight_decay(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed, not_decayed = ([p for p in parameters if (p in spared) is found] for found in (False, True))
    groups: list[dict[str, Any]] = [{"params": decayed}]
    return [*groups, {"params": not_decayed, "weight_decay": 0.0}] if not_decayed else groups


def without_weight_decay(module: nn.Module) -> set[nn.Parameter]:
    """Parameters with fewer than two dimensions (biases, normalisation), and those in ``no_weight_decay()``.

    As in timm, a module's ``no_weight_decay()`` returns names of its parameters, such as tokens, position embeddings
    and tables of relative positions.
    """
    found = {parameter for parameter in module.parameters() if parameter.ndim <= 1}
    for part in module.modules():
        names = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()  # type: ignore[operator]
        found |= {parameter for name, parameter in part.named_parameters() if name in names}
    return found
