"""Load a split from a source and check its labels, masks and first pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.source import ImageDataset, Source, Split

IGNORE_INDEX = 255  # id of pixels in masks that loss and metrics ignore
CHECKED_IMAGES = 4  # images of a split whose pixel values are checked


def load_split(source: Source, split: Split) -> ImageDataset:
    """Load a split of a source and check it.

    Raises:
        InputError: it cannot be read, or :func:`require_valid_split` refuses it.
    """
    images = source.load(split)
    require_valid_split(images, source, split)
    return images


def require_valid_split(images: ImageDataset, source: Source, split: str) -> None:
    """Refuse a split with invalid labels or masks, or with invalid pixels in four images spread over it.

    Args:
        images: the split.
        source: it came from, which names the classes.
        split: its name, for errors.

    Raises:
        InputError: with what was found and what is required.
    """
    name, number = f"The {split} split of {type(source).__name__}", len(images)
    require_labels(images.labels, number, getattr(source, "classes", None), name)
    require_masks(images.masks, number, source.mask_classes, name)
    if not number:
        return
    some = torch.linspace(0, number - 1, min(number, CHECKED_IMAGES)).long()
    batch = images.__getitems__(some.tolist())
    pixels = batch["clip" if images.clips else "image"]
    if pixels.dtype == torch.uint8 and pixels.max() == 1:
        raise InputError(
            f"{name} has pixels of 0 and 1 only, and 0 to 255 is required: multiply images in [0, 1] by 255 before "
            "they are made uint8."
        )
    if images.masks is not None and images.masks.shape[1:] != pixels.shape[-2:]:
        raise InputError(
            f"{name} has masks of {list(images.masks.shape[1:])} and images of {list(pixels.shape[-2:])} pixels: give "
            "them the same size."
        )


def require_labels(labels: Any, number: int, classes: Any, name: str) -> None:
    """Raise :class:`InputError` unless labels are int64 ``[N]`` in 0 … C − 1, or ``None``."""
    if labels is None:
        return
    require_tensor(labels, torch.int64, [number], f"{name} has labels")
    if classes is None:
        raise InputError(f"{name} has labels, and its source no classes: set classes to the list of their names.")
    if number and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise InputError(
            f"{name} has labels from {labels.min()} to {labels.max()}, and its source names {len(classes)} classes: "
            "labels are 0 to one less than their number."
        )


def require_masks(masks: Any, number: int, classes: Any, name: str) -> None:
    """Raise :class:`InputError` unless masks are uint8 ``[N, H, W]`` of class ids or 255, or ``None``."""
    if masks is None:
        return
    shape = list(masks.shape[1:]) if torch.is_tensor(masks) and masks.ndim == 3 else ["H", "W"]
    require_tensor(masks, torch.uint8, [number, *shape], f"{name} has masks")
    unknown = masks[(masks >= len(classes)) & (masks != IGNORE_INDEX)] if classes else masks[:0]
    if unknown.numel():
        raise InputError(
            f"{name} has masks with the id {int(unknown[0])}, and its source names {len(classes)} mask_classes: ids "
            f"are 0 to one less than their number, or {IGNORE_INDEX}, which is ignored."
        )


def require_tensor(found: Any, dtype: torch.dtype, shape: list[Any], what: str) -> None:
    """Raise :class:`InputError` unless a value is a tensor of this dtype and shape."""
    wanted = str(dtype).removeprefix("torch.")
    due = f"{wanted} [{', '.join(map(str, shape))}]"
    if not isinstance(found, Tensor):
        raise InputError(f"{what} as {type(found).__name__}, and a torch.Tensor is required: {due}.")
    if found.dtype != dtype or list(found.shape) != shape:
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(
            f"{what} as {kind} {list(found.shape)}, and {due} is required: convert them by .to(torch.{wanted})."
        )
