"""Hold out training images as a test split, to make decisions without the real test images."""

from __future__ import annotations

from typing import Annotated

from simmim_pl.contracts import InputError
from simmim_pl.data.part import Part
from simmim_pl.data.source import ImageDataset, Source, Split
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
                f"HeldOut: a share of {self.share:g} of {len(images)} images leaves one part empty: change the share."
            )
        kept, held = train_val_split(len(images), images.labels, self.share, self.seed)
        return Part(images, kept if split == "train" else held)
