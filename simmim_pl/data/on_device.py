"""A split whose pixels are kept in device memory: a batch is indexed there, without copying images from the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int64, UInt
from torch import Tensor

from simmim_pl.contracts import Batch, InputError
from simmim_pl.data.part import Part
from simmim_pl.data.source import ImageDataset, InMemory
from simmim_pl.runtime.pixels import rows_at

Where = bool | Literal["auto"]
SHARE = 4  # with "auto", a set may take at most 1 / SHARE of the free memory


class OnDevice(ImageDataset):
    """A split with its images and labels on a device; its batches are made there.

    Args:
        images: the split in host memory, which provides labels and digest.
        device: where to copy it.
    """

    def __init__(self, images: InMemory, device: torch.device) -> None:
        super().__init__(images.labels, workers=False)
        self.files, self.host, self.pixels = images.files, images, images.images.to(device)
        self.label = None if images.labels is None else images.labels.to(device)

    def __len__(self) -> int:
        return len(self.host)

    def read(self, index: Int64[Tensor, " B"]) -> UInt[Tensor, "B C H W"]:
        return rows_at(self.pixels, index)

    def digest(self) -> str:
        return self.host.digest()

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch on the device, without waiting for it."""
        index = torch.tensor(indices, dtype=torch.int64)
        if self.pixels.is_cuda:  # a copy from memory that is not pinned would wait for the device
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        batch: Batch = {"index": index, "image": self.read(index)}
        if self.label is not None:
            batch["label"] = self.label[index]
        return batch


def settle(images: ImageDataset, wanted: Where, device: torch.device) -> ImageDataset:
    """The split, moved to the device if wanted; with ``auto`` if it fits into a quarter of a GPU's free memory.

    Raises:
        InputError: it should be on the device, and cannot.
    """
    if wanted is False or (wanted == "auto" and device.type != "cuda"):
        return images
    base = images.images if isinstance(images, Part) else images
    if not isinstance(base, InMemory) or type(base).read is not InMemory.read or base.clips or base.masks is not None:
        if wanted is True:
            raise InputError(
                "--data.on_device true is for images that are held in memory, and these are clips, have masks, or are "
                "decoded as they are read: set it to auto."
            )
        return images
    size = base.images.nbytes * len(images) // max(len(base), 1)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    if free is None or size <= free // (1 if wanted is True else SHARE):
        return OnDevice(images.copied() if isinstance(images, Part) else base, device)
    if wanted is True:
        raise InputError(
            f"The images take {size / 1e9:.1f} GB, and the GPU has {free / 1e9:.1f} GB free: set --data.on_device auto."
        )
    return images
