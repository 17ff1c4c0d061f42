"""Check local views, which show smaller regions than the global views, at a smaller size."""

from __future__ import annotations

from simmim_pl.contracts import Batch, InputError


def require_views_not_enlarged(batch: Batch) -> None:
    """Raise :class:`InputError` if local views have more pixels than the image: upsampling would add no detail."""
    size, height, width = batch["local"].shape[-1], *batch["image"].shape[-2:]
    if size > min(height, width):
        raise InputError(
            f"Local views of {size} pixels are larger than the images of {height}×{width}: set "
            f"--data.local_views.size to {min(height, width)} or less, or use larger images."
        )
