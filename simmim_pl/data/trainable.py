"""Check that batches of training views can be made of a split."""

from __future__ import annotations

from torch.utils.data import Subset

from simmim_pl.contracts import InputError
from simmim_pl.data.source import Source, whole


def require_trainable(images: Subset, source: Source, batch_size: int) -> None:
    """Raise :class:`InputError` if images are clips, or do not fill a batch, or if a batch has one image."""
    if whole(images).clips:
        raise InputError(
            f"{type(source).__name__} holds clips, and training views are made of images: pretrain on images, "
            "as with --data configs/data/shapes.yaml, and evaluate on the clips."
        )
    if batch_size < 2:
        raise InputError("A batch of one image has no negatives: set --data.batch_size to 2 or more.")
    if len(images) < batch_size:
        raise InputError(
            f"The {len(images)} training images do not fill one batch of {batch_size}: lower "
            "--data.batch_size, or add images."
        )
