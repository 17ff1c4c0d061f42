"""Contract of operations on a view after its crop; one operation per file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simmim_pl.runtime.ranges import Probability, ranged
from simmim_pl.runtime.seeding import uniform


class Operation(ABC):
    """Draws parameters for every image of a batch, and applies them to the whole batch.

    :class:`simmim_pl.views.ContrastiveViews` calls ``sample`` for the batch, once per view and in the order of its
    operations, then ``apply`` for parts of the batch: the result for an image must not depend on the other images.

    Attributes:
        smallest: side of a view that the operation needs, in pixels.
    """

    smallest: int = 1

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Any:
        """Draw parameters of ``batch`` images: a tensor ``[B, …]`` or what can be indexed by images like one.

        All randomness comes from ``generator``, through :func:`simmim_pl.runtime.seeding.uniform`, which gives an image
        the same numbers on any number of ranks. The parameters lie on ``device``.
        """

    @abstractmethod
    def apply(self, view: Float[Tensor, "B C S S"], parameters: Any) -> Float[Tensor, "B C S S"]:
        """Do to each image in [0, 1] what its parameters say; the result is in [0, 1] too. ``view`` may be changed."""


class RandomOperation(Operation):
    """An operation without parameters, applied to each image with a probability.

    Args:
        probability: that it is applied to an image.
    """

    @ranged
    def __init__(self, probability: Probability = 0.2) -> None:
        self.probability = probability

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> Bool[Tensor, " B"]:
        """Which images."""
        return uniform(generator, batch, along=0).to(device) < self.probability
