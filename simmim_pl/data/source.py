"""What every data set keeps: a source makes its files be there and loads its splits as batch-indexed image sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from simmim_pl.records import Batch

Split = Literal["train", "test"]


class ImageSet(Dataset):
    """Contract of one split: length, labels (``None`` when there are none) and whole batches by index.

    Args:
        labels: class of each image, ``[N]``, or ``None``.
        workers: whether reading a batch is slow enough to be worth worker processes.
    """

    def __init__(self, labels: Int64[Tensor, " N"] | None, workers: bool) -> None:
        self.labels = labels
        self.workers = workers

    def __len__(self) -> int:
        """Number of images."""
        raise TypeError(f"{type(self).__name__} must define __len__")

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        """The images at these positions."""
        raise TypeError(f"{type(self).__name__} must define read(index)")

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: the DataLoader calls this instead of one call an image."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch: Batch = {"image": self.read(index), "index": index}
        if self.labels is not None:
            batch["label"] = self.labels[index]
        return batch


class InMemory(ImageSet):
    """A split held as one uint8 tensor ``[N, 3, H, W]``."""

    def __init__(self, images: UInt8[Tensor, "N 3 H W"], labels: Int64[Tensor, " N"] | None) -> None:
        super().__init__(labels, workers=False)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        return self.images[index]


class Source:
    """Contract of every data set.

    Attributes:
        classes: name of each class, in label order; empty when the set has no labels.
    """

    classes: list[str]

    def prepare(self) -> None:
        """Make the files be there. Called by one process a node; must not set state."""

    def load(self, split: Split) -> ImageSet:
        """Open one split. Called by every process, after :meth:`prepare`.

        Raises:
            InputError: the split does not exist or cannot be read.
        """
        raise TypeError(f"{type(self).__name__} must define load(split) -> ImageSet")
