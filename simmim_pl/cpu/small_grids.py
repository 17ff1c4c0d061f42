"""Convolutions on small feature maps as matrix products without padding, for CPUs, where torch's are slow.

With padding 1, a 3×3 kernel spends 31 % of its multiplications on padding on a 4×4 grid, and 56 % on 2×2. Here all
output positions at which the same part of the kernel overlaps the input share one matrix product, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.cpu.kernel_overlaps import kernel_overlaps, output_size, tap_overlaps

CHANNELS_LAST = torch.channels_last
# Custom operators, which torch.compile does not trace into: traced, they are slower.
SHARED_SCHEMA = "Tensor weight, int[] stride, int[] padding) -> Tensor"


def convert_small_grids(module: nn.Module) -> None:
    """Convert a module's convolutions to :class:`SmallGridConv2d` where supported, in place.

    Only their class changes: parameters, names in the state dict and optimizers stay valid.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and is_supported(layer):
            layer.__class__ = SmallGridConv2d


def is_supported(layer: nn.Conv2d) -> bool:
    """Whether ``convolution`` computes this layer: no bias, groups or dilation, zero padding below kernel size."""
    if layer.bias is not None or layer.groups > 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return False
    padding = layer.padding
    return not isinstance(padding, str) and all(
        pad < taps for pad, taps in zip(padding, layer.kernel_size, strict=True)
    )


class SmallGridConv2d(nn.Conv2d):
    """``nn.Conv2d`` that calls ``convolution`` when a CPU trains on a small grid in bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.slow(input, weight):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        # Autocast does not cast the inputs of custom operators.
        low, weights = input.to(torch.bfloat16), weight.to(torch.bfloat16, memory_format=torch.channels_last)
        out: Tensor = convolution(low, weights, self.stride, self.padding)
        return out

    def slow(self, input: Tensor, weight: Tensor) -> bool:
        """Whether torch's own convolution is the slower one for this layer and input."""
        if input.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
            return False
        lowered = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64
        dtype = torch.get_autocast_dtype("cpu") if lowered else input.dtype
        padding: Any = self.padding
        return dtype == torch.bfloat16 and max(
            output_size(input, self.kernel_size, self.stride, padding)
        ) <= max_grid_of_weight_gradient(weight)


def max_grid(weight: Tensor) -> int:
    """Largest side of the output grid on which matrix products are faster: smaller with fewer channels.

    Fitted to measurements by ``benchmarks/bfloat16.py``, like :func:`max_grid_of_weight_gradient`.
    """
    return min(4, min(weight.shape[:2]) // 64)


def max_grid_of_weight_gradient(weight: Tensor) -> int:
    """As :func:`max_grid`, for the gradient with respect to the weight."""
    return min(8, min(weight.shape[:2]) // 32)


@torch.library.custom_op("simmim_pl::convolution", mutates_args=(), schema=f"(Tensor x, {SHARED_SCHEMA}")
def convolution(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """``conv2d`` of ``x [B, I, H, W]`` and ``weight [O, I, kh, kw]`` → ``[B, O, h, w]``; padding below kernel size."""
    if max(output_size(x, weight.shape[2:], stride, padding)) > max_grid(weight):
        return F.conv2d(x, weight, None, stride, padding).contiguous(memory_format=CHANNELS_LAST)
    return convolve(x, weight.permute(2, 3, 1, 0), stride, padding)


@torch.library.custom_op(
    "simmim_pl::convolution_by_input", mutates_args=(), schema=f"(Tensor grad, Tensor x, {SHARED_SCHEMA}"
)
def convolution_grad_input(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """Gradient with respect to ``x``, ``[B, I, H, W]``: the convolution of ``grad`` with the flipped kernel.

    torch computes it for strides above 1.
    """
    if max(stride) > 1 or max(x.shape[2:]) > max_grid(weight):
        rest = (None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *rest)[0]
        return found.contiguous(memory_format=CHANNELS_LAST)
    full = [side - 1 - pad for side, pad in zip(weight.shape[2:], padding, strict=True)]
    return convolve(grad, weight.flip(2, 3).permute(2, 3, 0, 1).contiguous(), stride, full)


@torch.library.custom_op(
    "simmim_pl::convolution_by_weight", mutates_args=(), schema=f"(Tensor grad, Tensor x, {SHARED_SCHEMA}"
)
def convolution_grad_weight(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """Gradient with respect to ``weight``, ``[O, I, kh, kw]``: one matrix product for each position in the kernel."""
    out = weight.new_zeros(*weight.shape[2:], *weight.shape[:2])
    grad_rows, x_rows = grad.permute(2, 0, 3, 1), x.permute(2, 0, 3, 1)  # rows first: a range of rows is a matrix
    sides = zip(x.shape[2:], grad.shape[2:], weight.shape[2:], stride, padding, strict=True)
    down, across = (list(tap_overlaps(*side)) for side in sides)
    for j, (out_columns, in_columns) in enumerate(across):
        outputs, inputs = grad_rows[:, :, out_columns].contiguous(), x_rows[:, :, in_columns].contiguous()
        for i, (out_rows, in_rows) in enumerate(down):
            torch.mm(outputs[out_rows].flatten(0, 2).T, inputs[in_rows].flatten(0, 2), out=out[i, j])
    return out.permute(2, 3, 0, 1)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    size = (len(x), len(weight), *output_size(x, weight.shape[2:], stride, padding))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)


@convolution_grad_input.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return torch.empty_like(x, memory_format=CHANNELS_LAST)


@convolution_grad_weight.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return weight.new_empty(*weight.shape[2:], *weight.shape[:2]).permute(2, 3, 0, 1)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the tensors for :func:`backward`."""
    x, weight, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    """The gradients that are needed, with respect to input and weight."""
    args, (needs_x, needs_weight, *_) = (grad, *ctx.saved_tensors, *ctx.geometry), ctx.needs_input_grad
    grad_x = convolution_grad_input(*args) if needs_x else None
    return grad_x, convolution_grad_weight(*args) if needs_weight else None, None, None


convolution.register_autograd(backward, setup_context=setup_context)


def convolve(
    x: Float[Tensor, "B I H W"], kernel: Float[Tensor, "kh kw I O"], stride: Sequence[int], padding: Sequence[int]
) -> Float[Tensor, "B O h w"]:
    """The convolution, as one matrix product for each part of the kernel that overlaps the input somewhere."""
    rows = x.permute(0, 2, 3, 1)  # [B, H, W, I]: a contiguous view of a channels-last tensor
    out = x.new_empty(len(x), *output_size(x, kernel.shape[:2], stride, padding), kernel.shape[3])
    down, across = (
        list(kernel_overlaps(*side)) for side in zip(x.shape[2:], kernel.shape[:2], stride, padding, strict=True)
    )
    for out_columns, tap_columns, left in across:
        narrow = kernel[:, tap_columns].clone()  # contiguous, so that its rows flatten to a matrix without a copy
        for out_rows, tap_rows, top in down:
            part, target = narrow[tap_rows], out[:, out_rows, out_columns]
            windows = rows[:, top:, left:].unfold(1, part.shape[0], stride[0]).unfold(2, part.shape[1], stride[1])
            inputs = windows[:, : target.shape[1], : target.shape[2]].permute(0, 1, 2, 4, 5, 3)  # [B, h, w, kh, kw, I]
            values = inputs.flatten(3).flatten(0, 2) @ part.flatten(0, 2)
            target.copy_(values.view_as(target))
    return out.permute(0, 3, 1, 2)
