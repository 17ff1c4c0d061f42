"""Convolutions on small grids: their weights' gradient as one matrix product, where torch's is slow on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WIDEST = 5  # positions along a side of the output up to which the product is the faster, see benchmarks/small_grids.py


def small_grids(module: nn.Module) -> None:
    """Make the module's plain convolutions :class:`SmallGrid`, in place: weights, names and optimizers stay."""
    for layer in module.modules():
        plain = type(layer) is nn.Conv2d and layer.bias is None and layer.groups == 1 and layer.dilation == (1, 1)
        if plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = SmallGrid


class SmallGrid(nn.Conv2d):
    """``nn.Conv2d``, with the weights' gradient by :class:`Convolution` where a CPU trains a small grid in bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.slow(input, weight):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        # Autocast leaves functions that are not torch's alone.
        low, weights = input.to(torch.bfloat16), weight.to(torch.bfloat16)
        out: Tensor = Convolution.apply(low, weights, self.stride, self.padding)
        return out

    def slow(self, input: Tensor, weight: Tensor) -> bool:
        """Whether torch would be slow to find the weights' gradient."""
        if input.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
            return False
        lowered = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64
        dtype = torch.get_autocast_dtype("cpu") if lowered else input.dtype
        padding: Any = self.padding
        geometry = zip(input.shape[-2:], padding, self.kernel_size, self.stride, strict=True)
        sides = [(side + 2 * pad - kernel) // stride + 1 for side, pad, kernel, stride in geometry]
        return dtype == torch.bfloat16 and max(sides) <= WIDEST


class Convolution(torch.autograd.Function):
    """``conv2d``, whose weights' gradient is the product of what each position saw with the gradient there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "B O h w"]) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, weight), (stride, padding) = ctx.saved_tensors, ctx.geometry
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            rest = (None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False))
            by_x = torch.ops.aten.convolution_backward(grad, x, weight, *rest)[0]
        if ctx.needs_input_grad[1]:
            seen = windows(x, weight.shape[-2:], stride, padding)
            product = grad.transpose(0, 1).flatten(1) @ seen.flatten(0, 2).flatten(1)
            by_weight = product.unflatten(1, seen.shape[3:]).permute(0, 3, 1, 2)
        return by_x, by_weight, None, None


def windows(
    x: Float[Tensor, "B I H W"], kernel: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Float[Tensor, "B h w kh kw I"]:
    """What the kernel covers at each position of the output."""
    (top, left), rows = padding, x.permute(0, 2, 3, 1)  # channels last, as fast networks keep them: long runs to copy
    padded = F.pad(rows, (0, 0, left, left, top, top))
    seen = padded.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # [B, h, w, I, kh, kw]
    return seen.permute(0, 1, 2, 4, 5, 3)
