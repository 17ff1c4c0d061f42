"""What every loss over views keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """Contract of a loss: projections ``[V, B, P]`` of V views of B images → scalar, the mean over this rank."""

    @abstractmethod
    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        """The loss of a batch of projections."""

    def at_chance(self, views: int, images: int) -> float | None:
        """The loss when all projections are the same, and so tell nothing; None when a loss does not say.

        - ``views``, ``images``: of each image, and in the batch of all ranks.
        """
        return None
