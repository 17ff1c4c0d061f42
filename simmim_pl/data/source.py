"""Contracts of data sets: a source prepares its files, and loads its splits as image sets indexed by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Int64, UInt
from torch import Tensor
from torch.utils.data import Dataset, Subset

from simmim_pl.contracts import Batch
from simmim_pl.data.files.digest import digest
from simmim_pl.data.pixels import require_pixels
from simmim_pl.runtime.pixels import rows_at

Split = Literal["train", "test"]  #: part of a data set; validation images are taken from ``train``


class ImageDataset(Dataset, ABC):
    """Contract of one split: length, labels (``None`` when there are none), whole batches by index, and a digest.

    Args:
        labels: class of each image, int64 ``[N]``, or ``None``.
        workers: whether reading a batch is slow enough to be worth worker processes.
        clips: whether the set holds clips; its batches then have ``clip`` instead of ``image``.
        masks: class of each pixel, uint8 ``[N, H, W]``, 255 ignored, or ``None``.

    Attributes:
        files: where each image came from, or ``None``.
    """

    files: list[str] | None = None

    def __init__(
        self,
        labels: Tensor | None,
        workers: bool,
        clips: bool = False,
        masks: Tensor | None = None,
    ) -> None:
        self.labels, self.masks = labels, masks
        self.workers, self.clips = workers, clips

    @abstractmethod
    def __len__(self) -> int:
        """Number of images or clips."""

    @abstractmethod
    def read(self, index: Int64[Tensor, " B"]) -> UInt[Tensor, "B *T C H W"]:
        """The images at these positions, ``[B, C, H, W]``, or the clips, ``[B, T, C, H, W]``.

        Pixels are uint8 from 0 to 255, or uint16 from 0 to 65535.
        """

    @abstractmethod
    def digest(self) -> str:
        """16 hex digits: equal for the same set in every process, different for different sets.

        It is the key under which features of the set are kept; see :func:`simmim_pl.data.files.digest.digest`.
        """

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: the DataLoader calls this instead of one call an image.

        Raises:
            InputError: ``read`` returned the wrong type, dtype or shape.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch: Batch = {"index": index}
        pixels = self.read(index)
        require_pixels(pixels, len(index), self.clips, type(self).__name__)
        batch["clip" if self.clips else "image"] = pixels
        if self.labels is not None:
            batch["label"] = self.labels[index]
        if self.masks is not None:
            batch["mask"] = self.masks[index]
        return batch


class InMemory(ImageDataset):
    """A split held as one tensor of pixels: images ``[N, C, H, W]`` or clips ``[N, T, C, H, W]``, perhaps with masks.

    Raises:
        InputError: the images are of another type or shape.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, masks: Tensor | None = None) -> None:
        require_pixels(images, len(images), getattr(images, "ndim", 4) == 5, type(self).__name__)
        super().__init__(labels, workers=False, clips=images.ndim == 5, masks=masks)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: Int64[Tensor, " B"]) -> UInt[Tensor, "B *T C H W"]:
        return rows_at(self.images, index)

    def digest(self) -> str:
        """Of every pixel, label and mask."""
        return digest(self.images, self.labels, self.masks)


class Source(ABC):
    """Contract of every data set.

    Attributes:
        classes: name of each class, in label order; empty when the set has no labels.
        mask_classes: name of each id of the masks, in order; empty when the set has no masks.
    """

    classes: list[str]
    mask_classes: list[str] = []  # noqa: RUF012, a source with masks sets its own, nothing is ever added to this one

    @property
    def name(self) -> str:
        """What tables call the set."""
        return type(self).__name__

    @property
    def folds(self) -> list[Int64[Tensor, " n"]]:
        """Positions in train of each predefined fold; empty if the set has none. Known after :meth:`load`."""
        return []

    def prepare(self) -> None:  # noqa: B027, most sources have nothing to make
        """Prepare the files, such as by a download. Called by one process per node; must not set state."""

    def has_test(self) -> bool:
        """Whether there is a test split; called after :meth:`prepare`."""
        return True

    @abstractmethod
    def load(self, split: Split) -> ImageDataset:
        """Open one split. Called by every process, after :meth:`prepare`.

        Raises:
            InputError: the split does not exist or cannot be read.
        """


def whole(images: Any) -> ImageDataset:
    """The set of which this is a subset, however deep."""
    while isinstance(images, Subset):
        images = images.dataset
    return cast(ImageDataset, images)
