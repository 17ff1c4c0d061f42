"""Refuse double backward through a custom ``backward``, whose second derivative would be silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from simmim_pl.contracts import InputError


def no_double_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``backward`` of a ``torch.autograd.Function`` that autograd cannot differentiate.

    torch's ``once_differentiable`` raises only if the incoming gradient requires grad. The gradient of a loss with
    respect to itself never does, so this function's part of a second derivative would be missing without an error.

    Args:
        backward: the static method to decorate.

    Raises:
        InputError: when called under ``create_graph=True``.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # in a backward pass this means create_graph=True
            name = type(ctx).__name__.removesuffix("Backward")
            raise InputError(f"{name} has a first derivative only: take gradients without create_graph=True.")
        return backward(ctx, *grads)

    return refusing
