"""The images of a set at some positions."""

from __future__ import annotations

import torch
from jaxtyping import Int64, UInt
from torch import Tensor

from simmim_pl.data.files.digest import digest
from simmim_pl.data.source import ImageDataset, InMemory


class Part(ImageDataset):
    """A set's images at some positions, read when they are asked for.

    Args:
        images: the set.
        positions: of the images, int64 ``[N]``.
    """

    def __init__(self, images: ImageDataset, positions: Int64[Tensor, " N"]) -> None:
        labels, masks = (None if of is None else of[positions] for of in (images.labels, images.masks))
        super().__init__(labels, images.workers, images.clips, masks)
        self.images, self.positions = images, positions
        self.files = None if images.files is None else [images.files[at] for at in positions.tolist()]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: Int64[Tensor, " B"]) -> UInt[Tensor, "B *T C H W"]:
        return self.images.read(self.positions[index])

    def digest(self) -> str:
        return digest(self.images.digest(), self.positions)

    def copied(self) -> InMemory:
        """The part as a separate data set in memory."""
        found = InMemory(self.read(torch.arange(len(self))), self.labels, self.masks)
        found.files = self.files
        return found
