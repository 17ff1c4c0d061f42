"""Synchronised BatchNorm: torch's ``SyncBatchNorm`` on GPUs, and an implementation for CPUs, where torch has none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from simmim_pl.contracts import InputError
from simmim_pl.runtime import distributed
from simmim_pl.runtime.once_differentiable import no_double_backward


def convert_sync_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Convert every BatchNorm in a module, in place, to take its statistics over all ranks.

    Names in the state dict stay the same. With one rank nothing changes. torch's ``SyncBatchNorm`` refuses CPU tensors,
    so ranks on the CPU use :class:`SyncBatchNorm` of this file; both compute the same.

    Args:
        module: the network.
        device: where it will run.

    Raises:
        InputError: a layer does more than normalise, which conversion would drop: some of timm's have an activation.
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
    """Mixin before a BatchNorm class: training statistics are taken over all ranks.

    Every rank must hold the same number of items. The running variance is updated with the unbiased variance over all
    ranks' values, as one process would.
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
    """``(x - mean) / sqrt(variance + eps) · weight + bias`` with mean and variance of all ranks' values.

    Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 1. ``x`` is ``[B, C, ...]``; mean and variance are ``[C]``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(x.shape[1], dtype=exact)  # the statistics of bfloat16 inputs are computed in this type
        own_mean, own_variance = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
        means, variances = torch.stack(distributed.all_gather_list(torch.stack([own_mean, own_variance]))).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @no_double_backward
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        unit = torch.ones_like(mean) if weight is None else weight
        _, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, unit, None, None, mean, inverse, True, 0.0, [False, True, True]
        )
        # DDP averages the gradients of weight and bias over ranks. Gradients through the statistics are summed here.
        count = x.numel() // x.shape[1] * distributed.world_size()
        along, across = distributed.all_reduce_sum(torch.stack([by_weight, by_bias])) / count
        slope = unit * inverse
        tilt = -slope * inverse * along
        shift = -slope * across - tilt * mean
        result = affine(grad, slope, None).add_(affine(x, tilt, shift))
        return result, None if weight is None else by_weight, None if weight is None else by_bias, None


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight · x + bias`` per channel, in the type of ``x``, by BatchNorm's kernel: three times as fast on a CPU."""
    zero = torch.zeros_like(weight)
    return F.batch_norm(x, zero, zero, weight, bias, False, 0.0, eps=1.0)  # some versions of torch refuse an eps of 0
