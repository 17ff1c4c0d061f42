"""One encoder on one data set: batches on the device, and features that are extracted once and cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, UInt
from torch import Tensor
from torch.utils.data import Subset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.contracts import Batch, Encoder, Features, InputError
from simmim_pl.evaluation.features import Labelled, collect, read_cache, together, write_cache
from simmim_pl.evaluation.frozen import FrozenGuard, RawPixels, attributes, digest, require_frozen, source_code
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.seeding import make_generator

Item = TypeVar("Item")


@dataclass
class EvaluationContext:
    """What a protocol works with.

    Attributes:
        encoder: what is evaluated; frozen.
        data: an ``ImageDataModule`` whose train, validation and test splits are loaded.
        name: the encoder's name in the table, for progress bars.
        device: where to compute.
        precision: makes the context in which networks run, such as autocast.
        seed: of whatever a protocol draws.
        cache: folder of extracted features, or ``None``.
        progress: show progress bars.
    """

    encoder: Encoder
    data: Any
    name: str
    device: torch.device
    precision: Callable[[], AbstractContextManager[Any]]
    seed: int = 0
    cache: Path | None = None
    progress: bool = False
    known: dict[str, Labelled] = field(default_factory=dict)  # splits whose features are in memory

    @cached_property
    def watch(self) -> FrozenGuard:
        """A guard with the encoder's initial state, taken after a first forward pass on a blank image."""
        watch = FrozenGuard(self.encoder)
        self.encode(self.blank())
        watch.settle()
        return watch

    def blank(self) -> UInt[Tensor, "1 C H W"]:
        """An image of zeros, as large as the data set's."""
        first = next(iter(self.data.splits.values())).__getitems__([0])
        return torch.zeros_like(first["image"] if "image" in first else first["clip"][:, 0], device=self.device)

    def classes(self) -> list[str]:
        """Names of the classes in label order.

        Raises:
            InputError: the set has no labels, a single class in train, or a class in test that train lacks.
        """
        names: list[str] = self.data.source.classes
        if self.labels("train") is None:
            raise InputError(
                f"{self.data.source.name} has no labels: this evaluation needs class folders, see configs/data/."
            )
        seen = {split: self.labels(split).unique().tolist() for split in ("train", "validation", "test")}
        if len(seen["train"]) < 2:
            raise InputError(
                f"{self.data.source.name} has training images of only one class, so there is nothing to classify: "
                "add another class."
            )
        for split in ("validation", "test"):
            lacking = [names[label] for label in seen[split] if label not in seen["train"]]
            if lacking:
                raise InputError(
                    f"The class {lacking[0]} is in {split} but not in train, so it cannot be learned: add training "
                    "images of it, hold out fewer images with --data.validation, or remove the class."
                )
        return names

    def require_validation(self) -> None:
        """Raises :class:`InputError` when there is nothing to choose on."""
        if not len(self.data.splits["validation"]):
            raise InputError("The validation split is empty, and this evaluation selects on it: set --data.validation.")

    def require_stills(self) -> None:
        """Raises :class:`InputError` if the data set holds clips: views can only be made of images."""
        if self.data.splits["train"].dataset.clips:
            raise InputError(
                f"{self.data.source.name} holds clips, and this evaluation trains on images: evaluate clips by KNN, "
                "LinearProbe, FewLabels or VideoProbe."
            )

    def labels(self, split: str) -> Any:
        """Labels of a split, or ``None``; no image is read."""
        images = self.data.splits[split]
        known = images.dataset.labels
        return None if known is None else known[torch.as_tensor(images.indices, dtype=torch.int64)]

    def batches(self, split: str, epoch: int | None = None) -> Iterator[Batch]:
        """This rank's share of a split on the device: in order and whole, or shuffled by epoch in equal batches."""
        images, rank, ranks = self.data.splits[split], distributed.rank(), distributed.world_size()
        if epoch is None:
            loader = self.data.loader(Subset(images, range(rank, len(images), ranks)))
        else:
            order: DistributedSampler = DistributedSampler(images, ranks, rank, seed=self.seed, drop_last=True)
            order.set_epoch(epoch)
            loader = self.data.loader(images, self.batch(split) // ranks, sampler=order, drop_last=True)
        for batch in loader:
            yield cast(Batch, {name: part.to(self.device, non_blocking=True) for name, part in batch.items()})

    def batch(self, split: str) -> int:
        """Images per step on shuffled batches of a split, over all ranks. An incomplete last batch is dropped."""
        ranks, number = distributed.world_size(), len(self.data.splits[split])
        self.data.share(self.data.batch_size)  # refuses what the ranks cannot divide
        return min(int(self.data.batch_size), number // ranks * ranks)

    def steps(self, split: str) -> int:
        """Number of batches of a shuffled epoch. Raises :class:`InputError` if a rank would have none."""
        self.passes(split)
        return len(self.data.splits[split]) // self.batch(split)

    def passes(self, split: str) -> int:
        """Number of batches of a complete split in order. Raises :class:`InputError` if a rank would have none."""
        number = len(self.data.splits[split])
        if number < distributed.world_size():
            raise InputError(f"The {split} split has {number} images, fewer than one per device: add images.")
        return -(-number // int(self.data.batch_size))

    def watched(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """Iterate with a progress bar."""
        yield from tqdm(items, desc=f"{self.name}: {what}", total=total, leave=False, disable=not self.progress)

    def generator(self, step: int) -> torch.Generator:
        """Generator of a step's random numbers, of which this rank takes those of its own images."""
        return make_generator(self.seed, step, self.device, distributed.rank(), distributed.world_size())

    def encode(self, image: UInt[Tensor, "B C H W"] | Float[Tensor, "B C H W"]) -> Features:
        """Features of images, pixels or in [0, 1], by the frozen encoder, in float32."""
        unit = as_float(image)
        with torch.no_grad(), self.precision():
            require_frozen(self.encoder)
            features: Features = self.encoder(unit)
        return Features(features.pooled.float(), features.feature_map.float())

    def pooled(self, batch: Batch) -> Float[Tensor, "B *T D"]:
        """Pooled features of a batch of images, or of every frame of a batch of clips."""
        if "clip" in batch:
            frames = self.encode(batch["clip"].flatten(0, 1)).pooled
            return frames.view(*batch["clip"].shape[:2], -1)
        return self.encode(batch["image"]).pooled

    def vectors(self, split: str) -> Labelled:
        """Features of a split as one vector an item: of a clip, the mean over its frames."""
        features, labels = self.features(split)
        return features.mean(1) if features.ndim == 3 else features, labels

    def features(self, split: str) -> Labelled:
        """Features of a whole split in the data set's order, equal on every rank; from the cache if it has them.

        Raises:
            InputError: the encoder changes while it is used, or its features are not finite, or all the same.
        """
        if split not in self.known:
            _ = self.watch  # runs the first forward pass, after which the key no longer changes
            # Raw pixels are as quickly read from the data as from a file.
            kept = self.cache is not None and not isinstance(self.encoder, RawPixels)
            path = self.cache / f"{self.key(split)}.pt" if self.cache and kept else None
            found = read_cache(path) if path else None
            # Either all ranks extract or none: a rank may not yet see a file that another has written.
            if path and not distributed.all_ranks(found is not None):
                found = None
            if found is None:
                found = self.extract(split)
                if path and distributed.rank() == 0:
                    write_cache(path, found)
            self.known[split] = tuple(part.to(self.device) for part in found)  # type: ignore[assignment]
        return self.known[split]

    def extract(self, split: str) -> Labelled:
        """Run the encoder over a split, every image once whatever the number of ranks."""
        parts, total = [], self.passes(split)
        with together():
            first: Batch = {}
            for batch in self.watched(self.batches(split), f"features of {split}", total):
                first = first or batch
                parts.append((self.pooled(batch), batch["label"], batch["index"]))
            if not torch.allclose(self.pooled(first), parts[0][0], rtol=1e-3, atol=1e-4, equal_nan=True):
                raise InputError(
                    f"The encoder {type(self.encoder).__name__} gave different features for the same images: "
                    "a frozen encoder must be a function of the image alone."
                )
            self.watch.check()
        return collect(parts, split)

    def key(self, split: str) -> str:
        """Cache key of a split's features: a digest of encoder, data, image positions and precision."""
        images = self.data.splits[split]
        sha = hashlib.sha256(torch.tensor(list(images.indices)).numpy().tobytes())
        with self.precision():
            autocast = torch.is_autocast_enabled(self.device.type) and torch.get_autocast_dtype(self.device.type)
        # Weights alone do not identify an encoder: padding, activations or an edited forward change it too.
        encoder = (digest(self.encoder), attributes(self.encoder), repr(self.encoder), source_code(self.encoder))
        where = (torch.__version__, self.device.type, autocast, "uint8 / 255")
        for part in (*encoder, images.dataset.digest(), *where):
            sha.update(f"|{part}".encode())
        return sha.hexdigest()[:32]
