"""Check that batches of training views can be made of a split."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Subset

from simmim_pl.contracts import InputError, Views
from simmim_pl.data.source import Source, whole


def require_trainable(images: Subset, source: Source, batch_size: int, views: Sequence[Views | None]) -> None:
    """Raise :class:`InputError` if no batches of views can be made of some images.

    They are clips, do not fill a batch, a batch has one image, or views of so many channels cannot be made.
    """
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
    channels = whole(images).__getitems__([0])["image"].shape[-3]
    for each in filter(None, views):  # all now, though some are first made at the end
        each.require_channels(channels)
