"""Gradients of our own that can be taken once: a second derivative of them would be wrong without a word."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from simmim_pl.contracts import InputError


def first_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """To decorate the ``backward`` of a ``torch.autograd.Function`` that autograd cannot differentiate.

    torch's ``once_differentiable`` refuses only where the gradient that comes in has itself one. Of a loss none has,
    and what this function contributes to a second derivative would be left out.

    Raises:
        InputError: ``create_graph=True`` asked for a gradient that can be differentiated.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # in a backward pass only when its graph is to be kept
            name = type(ctx).__name__.removesuffix("Backward")
            raise InputError(f"{name} has a first derivative only: take gradients without create_graph=True.")
        return backward(ctx, *grads)

    return refusing
