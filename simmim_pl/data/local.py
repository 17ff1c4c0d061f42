"""Local views: of smaller regions than the others, at a size of their own."""

from __future__ import annotations

from simmim_pl.contracts import Batch, InputError


def require_smaller(batch: Batch) -> None:
    """Refuse local views of more pixels than the image has: they would be enlarged, and show nothing more closely."""
    size, height, width = batch["local"].shape[-1], *batch["image"].shape[-2:]
    if size > min(height, width):
        raise InputError(
            f"Local views of {size} pixels are larger than the images of {height}×{width}: set "
            f"--data.local_views.size to {min(height, width)} or less, or bring larger images."
        )
