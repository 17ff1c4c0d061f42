"""One sentence for errors of other libraries' networks that do not accept an image size."""

from __future__ import annotations

import torch
from torch import Tensor

from simmim_pl.contracts import InputError


def raise_for_image_size(name: str, image: Tensor, error: Exception) -> None:
    """Raise :class:`InputError` if the size of the images caused an error; otherwise return.

    An AssertionError, or a RuntimeError that mentions sizes, is taken to be about the image size: a pool or kernel
    larger than a small image's feature map, patches that do not divide the image. Running out of memory is not.

    Args:
        name: of the model.
        image: the batch ``[B, 3, H, W]``.
        error: of the network's forward pass.
    """
    reason = " ".join(str(error).split())
    about_size = isinstance(error, AssertionError) or any(
        word in reason.lower() for word in ("size", "shape", "too small")
    )
    if about_size and not isinstance(error, torch.OutOfMemoryError):
        height, width = image.shape[-2:]
        raise InputError(
            f"{name} cannot encode images of {height}×{width} pixels ({reason}): give it images of another size, with "
            "--data.source.size or --data.views.size, or choose another model."
        ) from error
