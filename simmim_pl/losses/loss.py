"""What every loss over views keeps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Loss(nn.Module):
    """Contract of a loss: projections ``[V, B, P]`` of V views of B images → scalar, the mean over this rank."""

    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        """The loss of a batch of projections."""
        raise TypeError(f"{type(self).__name__} must define forward(z) -> loss")
