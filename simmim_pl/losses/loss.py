"""Contract of losses over views, and helpers for losses with batch statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.contracts import InputError
from simmim_pl.runtime import distributed


class Loss(nn.Module, ABC):
    """Contract of a loss: projections ``[V, B, P]`` of V views of B images → scalar, the mean over this rank.

    Attributes:
        draws: whether ``forward`` also takes a ``generator`` of random numbers. The method passes one that is equal on
            every rank, differs between steps, and is reproduced in a resumed run.
    """

    draws = False

    @abstractmethod
    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        """The loss of a batch of projections.

        The method calls it once for every training batch, on every rank, under the trainer's autocast. ``z`` holds this
        rank's images; :func:`whole_batch` has those of all ranks.
        """

    def at_chance(self, views: int, images: int, width: int) -> float | None:
        """The least loss of projections without information about their image: all the same, or noise.

        None if it is not known.

        - ``views``, ``images``: number of views per image, and of images in the batch of all ranks.
        - ``width``: P, the length of a projection.
        """
        return None


def whole_batch(z: Float[Tensor, "V B P"]) -> Float[Tensor, "V N P"]:
    """The projections of all ranks' images, with gradient, in float32 at least."""
    return distributed.all_gather(full_precision(z).transpose(0, 1)).transpose(0, 1)


def full_precision(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Float64 as it is, else float32. Autocast has to be off for what follows to be computed in it."""
    return z if z.dtype == torch.float64 else z.float()


def require_views(z: Float[Tensor, "V B P"]) -> None:
    """Raise :class:`InputError` unless there are views to compare, and images to take statistics of."""
    if z.shape[0] < 2:
        raise InputError("This loss compares views of an image: set views to 2 or more.")
    if z.shape[1] * distributed.world_size() < 2:
        raise InputError("This loss takes statistics of the images of a batch: set batch_size to 2 or more.")
