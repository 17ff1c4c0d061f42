"""Wrap LightningDataModules of other packages for evaluations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from simmim_pl.contracts import Batch, InputError
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import WHITE

SPLITS = ("train", "validation", "test")
BLOCK = 256  # items read at once to learn their labels


def adapted(data: Any) -> Any:
    """Wrap a datamodule for evaluations; a :class:`simmim_pl.data.ImageDataModule` is returned unchanged.

    Raises:
        InputError: it lacks ``classes`` or a split, see :class:`simmim_pl.contracts.DataModule`.
    """
    return data if hasattr(data, "source") and hasattr(data, "loader") else Adapted(data)


class Adapted:
    """See :func:`adapted`. Items are read one by one in this process, by a DataLoader without workers.

    Args:
        data: a datamodule with ``classes`` and ``splits``, after ``setup``.
    """

    validation, split_seed = None, None  # unknown: the wrapped datamodule makes its own splits

    def __init__(self, data: LightningDataModule) -> None:
        known: Any = getattr(data, "splits", {})
        missing = [] if hasattr(data, "classes") else ["classes"]
        missing += [f'splits["{split}"]' for split in SPLITS if split not in known]
        if missing:
            raise InputError(
                f"{type(data).__name__} lacks {', '.join(missing)}, which evaluations read: see "
                "simmim_pl.contracts.DataModule."
            )
        self.source = Named(data)
        self.batch_size = int(getattr(data, "batch_size", 256))
        self.splits = {split: Subset(Items(known[split]), range(len(known[split]))) for split in SPLITS}

    def loader(self, images: Subset, batch_size: int | None = None, **order: Any) -> DataLoader:
        """Batches of a split."""
        size = batch_size or -(-self.batch_size // distributed.world_size())
        return DataLoader(images, batch_size=size, collate_fn=lambda batch: batch, **order)

    def share(self, batch: int) -> int:
        """A device's part of a batch. Raises :class:`InputError` when it cannot be divided among the devices."""
        if batch % distributed.world_size():
            raise InputError(f"A batch of {batch} images cannot be divided among {distributed.world_size()} devices.")
        return batch // distributed.world_size()


class Named:
    """Name and classes of a datamodule's images."""

    mask_classes: Sequence[str] = ()
    folds: Sequence[Tensor] = ()

    def __init__(self, data: Any) -> None:
        self.name, self.classes = type(data).__name__, [str(name) for name in data.classes]


class Items(Dataset):
    """A dataset of ``{"image": uint8 [C, H, W], "label": int}`` by index, as whole batches.

    Args:
        items: the dataset.
    """

    clips, masks = False, None

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch. Raises :class:`InputError` if an item has another form."""
        items = [self.items[int(index)] for index in indices]
        image = items[0].get("image") if isinstance(items[0], dict) else None
        if not isinstance(image, Tensor) or image.dtype not in WHITE or image.ndim != 3:
            raise InputError(
                'The splits of a datamodule hold items {"image": uint8 [C, H, W], "label": int} for evaluations, and '
                f"one of {type(self.items).__name__} is {items[0]!r:.80}."
            )
        batch: Batch = default_collate([{name: item[name] for name in items[0]} for item in items])
        batch["index"] = torch.as_tensor(indices, dtype=torch.int64)
        return batch

    def blocks(self) -> Iterator[Batch]:
        """All of it, in order."""
        for rows in torch.arange(len(self)).split(BLOCK):
            yield self.__getitems__(rows.tolist())

    @cached_property
    def labels(self) -> Int64[Tensor, " N"] | None:
        """All labels, for which every item is read once."""
        found = [batch["label"] for batch in self.blocks() if "label" in batch]
        return torch.cat(found) if found else None

    def digest(self) -> str:
        """16 hex digits of every image and label."""
        sha = hashlib.sha256()
        for batch in self.blocks():
            for name in ("image", "label"):
                rows: Any = batch.get(name)
                sha.update(f"{name} {None if rows is None else tuple(rows.shape)}".encode())
                sha.update(b"" if rows is None else rows.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]
