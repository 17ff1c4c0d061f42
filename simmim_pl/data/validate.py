"""Refuse a split that is not what it has to be, whoever's source it came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.source import ImageDataset, Source, Split

IGNORED = 255  # in masks
LOOKED_AT = 4  # images of a split that are read to see what their values are


def load(source: Source, split: Split) -> ImageDataset:
    """A split of a source, checked.

    Raises:
        InputError: it cannot be read; or its labels, its masks or some of its images are not what they have to be.
    """
    images = source.load(split)
    require_sound(images, source, split)
    return images


def require_sound(images: ImageDataset, source: Source, split: str) -> None:
    """Refuse a split whose labels, masks, or first few images are not what they have to be.

    Raises:
        InputError: with what was found and what is due.
    """
    name, number = f"The {split} split of {type(source).__name__}", len(images)
    require_labels(images.labels, number, getattr(source, "classes", None), name)
    require_masks(images.masks, number, source.mask_classes, name)
    if not number:
        return
    some = torch.linspace(0, number - 1, min(number, LOOKED_AT)).long()
    batch = images.__getitems__(some.tolist())
    pixels = batch["clip" if images.clips else "image"]
    if pixels.max() == 1:
        raise InputError(
            f"{name} has pixels of 0 and 1 only, and 0 to 255 is due: multiply images in [0, 1] by 255 before they are "
            "made uint8."
        )
    if images.masks is not None and images.masks.shape[1:] != pixels.shape[-2:]:
        raise InputError(
            f"{name} has masks of {list(images.masks.shape[1:])} and images of {list(pixels.shape[-2:])} pixels: give "
            "them the same size."
        )


def require_labels(labels: Any, number: int, classes: Any, name: str) -> None:
    """Refuse labels that are not int64 ``[N]`` in 0 … C − 1."""
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
    """Refuse masks that are not uint8 ``[N, H, W]`` with the ids of classes, or 255."""
    if masks is None:
        return
    shape = list(masks.shape[1:]) if torch.is_tensor(masks) and masks.ndim == 3 else ["H", "W"]
    require_tensor(masks, torch.uint8, [number, *shape], f"{name} has masks")
    unknown = masks[(masks >= len(classes)) & (masks != IGNORED)] if classes else masks[:0]
    if unknown.numel():
        raise InputError(
            f"{name} has masks with the id {int(unknown[0])}, and its source names {len(classes)} mask_classes: ids "
            f"are 0 to one less than their number, or {IGNORED}, which is ignored."
        )


def require_tensor(found: Any, dtype: torch.dtype, shape: list[Any], what: str) -> None:
    """Refuse anything but a tensor of this type and shape."""
    wanted = str(dtype).removeprefix("torch.")
    due = f"{wanted} [{', '.join(map(str, shape))}]"
    if not isinstance(found, Tensor):
        raise InputError(f"{what} as {type(found).__name__}, and a torch.Tensor is due: {due}.")
    if found.dtype != dtype or list(found.shape) != shape:
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(
            f"{what} as {kind} {list(found.shape)}, and {due} is due: convert them by .to(torch.{wanted})."
        )
