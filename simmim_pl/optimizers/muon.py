"""Muon: momentum whose matrices are orthogonalised by Newton–Schulz iterations before every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from simmim_pl.runtime.precision import bfloat16_in_hardware
from simmim_pl.runtime.ranges import NonNegativeFloat, Probability, ranged

# Coefficients of x → a x + b x³ + c x⁵, one triple per iteration, as in modded-nanogpt and timm.
COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
EPS = 1e-7
SMALLEST, LONGEST = 4, 128  # shortest side, and largest ratio of the sides, of a matrix that Muon updates


class Muon(Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), for kernels of convolutions too.

    Kernels ``[O, I, h, w]`` are treated as matrices ``[O, I·h·w]``. Updates have the RMS of AdamW's, so learning rates
    for AdamW apply (Liu et al. 2025, arXiv 2502.16982, eq. 4). Other parameters, such as biases and norms, are updated
    by NAdamW. It equals timm's Muon with ``nesterov=True``, except that timm iterates in bfloat16 on every device.

    Args:
        params: as of any torch optimizer.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        momentum: of matrices.
        betas: of the others.
    """

    @ranged
    def __init__(
        self,
        params: Iterable[Any],
        lr: NonNegativeFloat = 0.02,
        weight_decay: NonNegativeFloat = 0.0,
        momentum: Probability = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure`` does."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved and group["weight_decay"]:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            if matrices := [parameter for parameter in moved if is_matrix(parameter)]:
                self.orthogonal(matrices, group)
            if others := [parameter for parameter in moved if not is_matrix(parameter)]:
                self.nadam(others, group)
        return loss

    def orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update each matrix by the orthogonal matrix nearest to its momentum, scaled to the RMS of an AdamW update."""
        averages, grads = self.kept(parameters, "momentum_buffer"), gradients(parameters)
        torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, averages, group["momentum"])
        alike: defaultdict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, update in zip(parameters, ahead, strict=True):
            matrix = wide(update, parameter)
            alike[matrix.shape, matrix.dtype, matrix.device].append((parameter, matrix))
        for (shape, *_), same in alike.items():  # batched matrix products for all matrices of a shape
            moved, matrices = zip(*same, strict=True)
            updates = orthogonalise(matrices).to(moved[0].dtype)
            step = [shaped(update, parameter) for update, parameter in zip(updates, moved, strict=True)]
            torch._foreach_add_(moved, step, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def nadam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move the others as Adam does with Nesterov's momentum (Dozat 2016)."""
        averages, squares = self.kept(parameters, "exp_avg"), self.kept(parameters, "exp_avg_sq")
        (beta1, beta2), grads = group["betas"], gradients(parameters)
        for parameter in parameters:
            self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        steps = [self.state[parameter]["step"] for parameter in parameters]
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        scales = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, EPS)
        ahead = torch._foreach_lerp(averages, grads, 1 - beta1)
        torch._foreach_addcdiv_(parameters, ahead, scales, [-group["lr"] / (1 - beta1**step) for step in steps])

    def kept(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """The state tensor of each parameter under a name; zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Of those that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a matrix or kernel whose sides are neither tiny nor of very different lengths."""
    if parameter.ndim < 2 or 1 in parameter.shape[:2]:
        return False
    short, long = sorted((len(parameter), parameter[0].numel()))
    return short >= SMALLEST and long <= LONGEST * short


def columns(parameter: Tensor) -> tuple[int, ...]:
    """Axes after the first, as they lie in memory: the order of a matrix's columns changes nothing but the speed."""
    return tuple(sorted(range(1, parameter.ndim), key=parameter.stride, reverse=True))


def wide(update: Float[Tensor, "O ..."], parameter: Tensor) -> Float[Tensor, "short long"]:
    """An update as a matrix whose shorter side comes first, which makes the iteration's products small."""
    matrix = update.permute(0, *columns(parameter)).flatten(1)
    return matrix.mT if len(matrix) > matrix.shape[1] else matrix


def shaped(matrix: Float[Tensor, "short long"], parameter: Tensor) -> Float[Tensor, "O ..."]:
    """The inverse of :func:`wide`."""
    axes = columns(parameter)
    matrix = matrix if len(matrix) == len(parameter) else matrix.mT
    return matrix.reshape(-1, *(parameter.shape[axis] for axis in axes)).movedim(tuple(range(1, parameter.ndim)), axes)


def orthogonalise(matrices: Sequence[Float[Tensor, "O I"]]) -> Float[Tensor, "N O I"]:
    """Approximate ``U Vᵀ`` of ``U S Vᵀ`` by Newton–Schulz iterations, which bring all singular values near one.

    The products are ``O × O``, so ``O`` should be the shorter side.
    """
    first = matrices[0]
    x = first.new_empty(len(matrices), *first.shape, dtype=working_type(first))
    torch._foreach_copy_(list(x), list(matrices))
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=EPS)
    for a, b, c in COEFFICIENTS:
        product = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(product, product, product, beta=b, alpha=c), x, beta=a)
    return x


def working_type(matrix: Tensor) -> torch.dtype:
    """Bfloat16 if the hardware supports it, else float32, since emulation is many times slower. Float64 stays."""
    if matrix.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if bfloat16_in_hardware(matrix.device.type) else torch.float32
