"""Hold out training images as a test split, to make decisions without the real test images."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.digest import digest
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.data.split import train_val_split
from simmim_pl.runtime.ranges import Range, Seed, ranged


class HeldOut(Source):
    """The training images of another source, some of which are the test split. The source's own test is never read.

    Methods and settings are compared on it, in pretraining and in evaluation, so that test remains for the one that is
    chosen. The choice of images is stratified by class and depends on ``seed`` alone. ``--data.validation`` is held out
    of the rest. ``classes`` is known after ``load``.

    Args:
        source: the data set.
        share: of its training images, which become the test split.
        seed: of their choice; leave it alone to compare runs.
    """

    @ranged
    def __init__(self, source: Source, share: Annotated[float, Range("(0, 1)")] = 0.1, seed: Seed = 0) -> None:
        self.source, self.share, self.seed = source, share, seed

    @property
    def name(self) -> str:
        """The source's name, marked as held out."""
        return f"{self.source.name} (held out)"

    def prepare(self) -> None:
        self.source.prepare()

    def load(self, split: Split) -> ImageDataset:
        """Open one split. Raises :class:`InputError` as the source's ``load``, or where one part would be empty."""
        images = self.source.load("train")
        self.classes, self.mask_classes = self.source.classes, self.source.mask_classes
        if not 0 < round(self.share * len(images)) < len(images):
            raise InputError(
                f"HeldOut: a share of {self.share:g} of {len(images)} images leaves one part empty: change it."
            )
        kept, held = train_val_split(len(images), images.labels, self.share, self.seed)
        return part(images, kept if split == "train" else held)


class Part(ImageDataset):
    """The images of a set at some positions, read as they are asked for."""

    def __init__(self, images: ImageDataset, positions: Int64[Tensor, " N"]) -> None:
        labels, masks = (None if of is None else of[positions] for of in (images.labels, images.masks))
        super().__init__(labels, images.workers, images.clips, masks)
        self.images, self.positions = images, positions
        self.files = None if images.files is None else [images.files[at] for at in positions.tolist()]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B *T 3 H W"]:
        return self.images.read(self.positions[index])

    def digest(self) -> str:
        return digest(self.images.digest(), self.positions)


def part(images: ImageDataset, positions: Int64[Tensor, " N"]) -> ImageDataset:
    """The images at these positions; in memory if the set is, so that they can be moved to the device."""
    some = Part(images, positions)
    if type(images).read is not InMemory.read:
        return some
    found = InMemory(some.read(torch.arange(len(some))), some.labels, some.masks)
    found.files = some.files
    return found
