"""How a network of another library says that it cannot take images of a size, in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from simmim_pl.contracts import InputError


def explain(name: str, image: Tensor, error: Exception) -> None:
    """Raises :class:`InputError` where the size of the images is the cause of an error; else returns.

    A RuntimeError of torch's is taken for the size's when it speaks of sizes: a pool or a kernel larger than what is
    left of a small image, patches that do not divide it. A device out of memory is not mended by another size alone.
    """
    reason = " ".join(str(error).split())
    of_size = isinstance(error, AssertionError) or any(
        word in reason.lower() for word in ("size", "shape", "too small")
    )
    if of_size and not isinstance(error, torch.OutOfMemoryError):
        height, width = image.shape[-2:]
        raise InputError(
            f"{name} cannot encode images of {height}×{width} pixels ({reason}): give it images of another size, with "
            "--data.source.size or --data.views.size, or choose another model."
        ) from error
