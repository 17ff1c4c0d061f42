"""Muon: momentum whose matrices are orthogonalised by Newton–Schulz iterations before every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from simmim_pl.runtime.precision import bfloat16_in_hardware
from simmim_pl.runtime.ranges import NonNegativeFloat, Probability, ranged

# Of x → a x + b x³ + c x⁵, applied to all singular values in turn; those of modded-nanogpt and of timm.
COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
EPS = 1e-7
SMALLEST, LONGEST = 4, 128  # side of a matrix that is worth it, and how often the longer side may hold the shorter


class Muon(Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), for kernels of convolutions too.

    Kernels ``[O, I, h, w]`` are matrices ``[O, I·h·w]``. An update has the size that AdamW's would have: learning rates
    are AdamW's (Liu et al. 2025, arXiv 2502.16982, eq. 4). What is no matrix, such as biases and norms, is NAdamW's.
    It is timm's Muon with ``nesterov=True``, but for the type of the iteration, which timm does in bfloat16 everywhere.

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move = self.orthogonal if is_matrix(parameter) else self.nadam
                    move(parameter, parameter.grad, group)
        return loss

    def orthogonal(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """Move a matrix by the nearest orthogonal one to its momentum, in an AdamW step's size."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalise(grad.lerp(average, group["momentum"]).reshape(len(grad), -1))
        size = 0.2 * max(update.shape) ** 0.5
        parameter.add_(update.reshape(grad.shape).to(parameter.dtype), alpha=-group["lr"] * size)

    def nadam(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """Move anything else as Adam does with Nesterov's momentum (Dozat 2016)."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        average = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (square / (1 - beta2 ** state["step"])).sqrt_().add_(EPS)
        parameter.addcdiv_(average.lerp(grad, 1 - beta1), scale, value=-group["lr"] / (1 - beta1 ** state["step"]))


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a matrix, or a kernel, whose sides are neither tiny nor of very different lengths."""
    if parameter.ndim < 2 or 1 in parameter.shape[:2]:
        return False
    short, long = sorted((len(parameter), parameter[0].numel()))
    return short >= SMALLEST and long <= LONGEST * short


def orthogonalise(matrix: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """All singular values brought near one by Newton–Schulz iterations: ``U Vᵀ`` of ``U S Vᵀ``, roughly."""
    x = matrix.to(working_type(matrix))
    if tall := x.shape[0] > x.shape[1]:  # the products are of the shorter side
        x = x.mT
    x = x / x.norm().clamp(min=EPS)
    for a, b, c in COEFFICIENTS:
        product = x @ x.mT
        x = torch.addmm(x, torch.addmm(product, product, product, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def working_type(matrix: Tensor) -> torch.dtype:
    """Bfloat16 where it is in hardware; emulated it takes many times as long as float32. Float64 stays as it is."""
    if matrix.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if bfloat16_in_hardware(matrix.device.type) else torch.float32
