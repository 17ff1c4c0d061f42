"""BatchNorm whose statistics are of the whole batch on every device: torch's own on GPUs, ours where it has none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from simmim_pl.contracts import InputError
from simmim_pl.runtime import distributed
from simmim_pl.runtime.once_differentiable import first_only


def convert_sync_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Have every BatchNorm within a module take its statistics over all ranks; names in a checkpoint stay the same.

    With one rank nothing changes. torch's ``SyncBatchNorm`` refuses the CPU, where gloo ranks use
    :class:`SyncBatchNorm`; both compute the same.

    Raises:
        InputError: a layer does more than normalise, as timm's that include an activation: it would be lost.
    """
    if distributed.world_size() == 1:
        return
    plain = (_BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBatchNorm.forward)
    for part in module.modules():
        if isinstance(part, _BatchNorm) and type(part).forward not in plain:
            raise InputError(
                f"{type(part).__name__} does more than normalise, and cannot be synchronised over devices: use one "
                "device, another encoder, or in pretraining --model.sync_batchnorm false."
            )
    if device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, (nn.SyncBatchNorm, SyncBatchNorm)):
            part.__class__ = type(f"Sync{type(part).__name__}", (SyncBatchNorm, type(part)), {})


class SyncBatchNorm(_BatchNorm):
    """To stand before a BatchNorm among the bases of a class: its statistics in training are of all ranks' items.

    Each rank has to hold the same number of items. What the running variance is fed is unbiased by the number of values
    over all ranks, as if one process had seen them.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output: Tensor
        output, mean, variance = Normalize.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            count = input.numel() // input.shape[1] * distributed.world_size()
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), weight)
        return output


class Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps) · weight + bias`` by all ranks' mean and variance (Ioffe & Szegedy 2015)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(x.shape[1], dtype=exact)  # statistics of bfloat16 are computed in the type of these
        own_mean, own_variance = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
        means, variances = torch.stack(distributed.all_gather_list(torch.stack([own_mean, own_variance]))).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @first_only
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        unit = torch.ones_like(mean) if weight is None else weight
        _, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, unit, None, None, mean, inverse, True, 0.0, [False, True, True]
        )
        # DDP averages the gradients of weight and bias over ranks; those of the statistics are summed here.
        count = x.numel() // x.shape[1] * distributed.world_size()
        along, across = distributed.all_reduce_sum(torch.stack([by_weight, by_bias])) / count
        slope = unit * inverse
        tilt = -slope * inverse * along
        shift = -slope * across - tilt * mean
        result = affine(grad, slope, None).add_(affine(x, tilt, shift))
        return result, None if weight is None else by_weight, None if weight is None else by_bias, None


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight · x + bias`` by channel, in the type of ``x``: BatchNorm's own kernel is three times as fast at it."""
    return F.batch_norm(x, torch.zeros_like(weight), torch.ones_like(weight), weight, bias, False, 0.0, 0.0)
