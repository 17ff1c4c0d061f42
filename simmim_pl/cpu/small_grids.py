"""Convolutions on small grids as products of what lies inside, where torch's are slow on a CPU.

Of what a 3×3 kernel meets on a grid of 4×4 positions 31 % is padding, on 2×2 56 %. Here positions that see the same
part of the kernel share one matrix product, and no product holds padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LAST = torch.channels_last
# The functions below are operations, which torch.compile takes as one piece: traced into, they are slower.
REST = "Tensor weight, int[] stride, int[] padding) -> Tensor"


def small_grids(module: nn.Module) -> None:
    """Make the module's plain convolutions :class:`SmallGrid`, in place: weights, names and optimizers stay."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and plain(layer):
            layer.__class__ = SmallGrid


def plain(layer: nn.Conv2d) -> bool:
    """Whether the layer is what :func:`convolution` computes."""
    if layer.bias is not None or layer.groups > 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return False
    padding = layer.padding
    return not isinstance(padding, str) and all(
        pad < taps for pad, taps in zip(padding, layer.kernel_size, strict=True)
    )


class SmallGrid(nn.Conv2d):
    """``nn.Conv2d``, by way of :func:`convolution` where a CPU trains a small grid in bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.slow(input, weight):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        # Autocast leaves functions that are not torch's alone.
        low, weights = input.to(torch.bfloat16), weight.to(torch.bfloat16, memory_format=torch.channels_last)
        out: Tensor = convolution(low, weights, self.stride, self.padding)
        return out

    def slow(self, input: Tensor, weight: Tensor) -> bool:
        """Whether torch would be slow to train this layer on this input."""
        if input.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
            return False
        lowered = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64
        dtype = torch.get_autocast_dtype("cpu") if lowered else input.dtype
        padding: Any = self.padding
        return dtype == torch.bfloat16 and max(grid(input, self.kernel_size, self.stride, padding)) <= widest_gradient(
            weight
        )


def widest(weight: Tensor) -> int:
    """Positions along a side of the grid up to which products are the faster: few, where they have few channels."""
    return min(4, min(weight.shape[:2]) // 64)


def widest_gradient(weight: Tensor) -> int:
    """The same for the weights' gradient. Both as ``benchmarks/small_grids.py`` found them."""
    return min(8, min(weight.shape[:2]) // 32)


@torch.library.custom_op("simmim_pl::convolution", mutates_args=(), schema=f"(Tensor x, {REST}")
def convolution(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """``conv2d`` of x [B, I, H, W] with weight [O, I, kh, kw], the padding less than the kernel: [B, O, h, w]."""
    if max(grid(x, weight.shape[2:], stride, padding)) > widest(weight):
        return F.conv2d(x, weight, None, stride, padding).contiguous(memory_format=LAST)
    return convolve(x, weight.permute(2, 3, 1, 0), stride, padding)


@torch.library.custom_op("simmim_pl::convolution_by_input", mutates_args=(), schema=f"(Tensor grad, Tensor x, {REST}")
def by_input(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """By x, [B, I, H, W]: the gradient's convolution with the kernel turned around; strides are left to torch."""
    if max(stride) > 1 or max(x.shape[2:]) > widest(weight):
        rest = (None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *rest)[0]
        return found.contiguous(memory_format=LAST)
    around = [side - 1 - pad for side, pad in zip(weight.shape[2:], padding, strict=True)]
    return convolve(grad, weight.flip(2, 3).permute(2, 3, 0, 1).contiguous(), stride, around)


@torch.library.custom_op("simmim_pl::convolution_by_weight", mutates_args=(), schema=f"(Tensor grad, Tensor x, {REST}")
def by_weight(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """By weight, [O, I, kh, kw]: for each place in the kernel, the gradients' product with what they saw there."""
    out = weight.new_zeros(*weight.shape[2:], *weight.shape[:2])
    change, lines = grad.permute(2, 0, 3, 1), x.permute(2, 0, 3, 1)  # lines first: runs of them are matrices
    sides = zip(x.shape[2:], grad.shape[2:], weight.shape[2:], stride, padding, strict=True)
    down, across = (list(meetings(*side)) for side in sides)
    for j, (columns, beside) in enumerate(across):
        changed, seen = change[:, :, columns].contiguous(), lines[:, :, beside].contiguous()
        for i, (places, below) in enumerate(down):
            torch.mm(changed[places].flatten(0, 2).T, seen[below].flatten(0, 2), out=out[i, j])
    return out.permute(2, 3, 0, 1)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    size = (len(x), len(weight), *grid(x, weight.shape[2:], stride, padding))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=LAST)


@by_input.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


@by_weight.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    return weight.new_empty(*weight.shape[2:], *weight.shape[:2]).permute(2, 3, 0, 1)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """What the gradients are found from."""
    x, weight, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Those that are asked for."""
    known, (by_x, by_w, *_) = (grad, *ctx.saved_tensors, *ctx.geometry), ctx.needs_input_grad
    return by_input(*known) if by_x else None, by_weight(*known) if by_w else None, None, None


convolution.register_autograd(gradients, setup_context=keep)


def convolve(
    x: Float[Tensor, "B I H W"], kernel: Float[Tensor, "kh kw I O"], stride: Sequence[int], padding: Sequence[int]
) -> Float[Tensor, "B O h w"]:
    """A product for each part of the kernel that some positions see."""
    rows = x.permute(0, 2, 3, 1)  # channels last, as fast networks keep them: long runs to copy
    out = x.new_empty(len(x), *grid(x, kernel.shape[:2], stride, padding), kernel.shape[3])
    down, across = (list(parts(*side)) for side in zip(x.shape[2:], kernel.shape[:2], stride, padding, strict=True))
    for columns, seen, left in across:
        narrow = kernel[:, seen].clone()  # of which whole lines are matrices already: no product copies them again
        for lines, taps, top in down:
            part, place = narrow[taps], out[:, lines, columns]
            windows = rows[:, top:, left:].unfold(1, part.shape[0], stride[0]).unfold(2, part.shape[1], stride[1])
            met = windows[:, : place.shape[1], : place.shape[2]].permute(0, 1, 2, 4, 5, 3)  # [B, h, w, kh, kw, I]
            values = met.flatten(3).flatten(0, 2) @ part.flatten(0, 2)
            place.copy_(values.view_as(place))
    return out.permute(0, 3, 1, 2)


def grid(x: Tensor, kernel: Sequence[Any], stride: Sequence[int], padding: Sequence[int]) -> tuple[Any, Any]:
    """Positions down and across the output: numbers, or what torch.compile has for them.

    >>> grid(torch.empty(1, 3, 8, 7), (3, 3), (2, 1), (1, 0))
    (4, 5)
    """
    sides = zip(x.shape[2:], kernel, stride, padding, strict=True)
    down, across = ((side + 2 * pad - taps) // step + 1 for side, taps, step, pad in sides)
    return down, across


def parts(side: int, taps: int, step: int, pad: int) -> Iterator[tuple[slice, slice, int]]:
    """Positions of the output that see the same part of the kernel, that part, and the first input that they see.

    >>> [(places.stop - places.start, taps, first) for places, taps, first in parts(side=4, taps=3, step=1, pad=1)]
    [(1, slice(1, 3, None), 0), (2, slice(0, 3, None), 0), (1, slice(0, 2, None), 2)]
    """

    def seen(place: int) -> tuple[int, int]:
        start = place * step - pad
        return max(0, -start), min(taps, side - start)

    for part, places in groupby(range((side + 2 * pad - taps) // step + 1), seen):
        first, *others = places
        yield slice(first, first + 1 + len(others)), slice(*part), max(0, first * step - pad)


def meetings(side: int, outputs: int, taps: int, step: int, pad: int) -> Iterator[tuple[slice, slice]]:
    """For each place in the kernel: the positions that see an input there, and these inputs.

    >>> list(meetings(side=4, outputs=4, taps=3, step=1, pad=1))
    [(slice(1, 4, None), slice(0, 3, 1)), (slice(0, 4, None), slice(0, 4, 1)), (slice(0, 3, None), slice(1, 4, 1))]
    """
    for tap in range(taps):
        first = max(0, -((tap - pad) // step))
        end = max(first, min(outputs, (side - 1 - tap + pad) // step + 1))
        start = first * step - pad + tap
        yield slice(first, end), slice(start, start + (end - first) * step, step)
