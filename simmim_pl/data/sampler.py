"""The random order of training images, which can start in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice
from typing import Any, cast

from torch.utils.data.distributed import DistributedSampler

from simmim_pl.contracts import InputError


class ResumableSampler(DistributedSampler):
    """torch's ``DistributedSampler`` that can start in the middle of an epoch.

    The order is a function of (seed, epoch); ranks take images in turn. Lightning calls ``set_epoch`` only after the
    workers have asked for the first images, so the constructor takes the first epoch. The length is a whole epoch's.

    Args:
        images: the data set.
        ranks: number of ranks.
        rank: index of this process.
        seed: of the order.
        epoch: the first epoch.
        skipped: images of the first epoch that this rank has seen already.
    """

    def __init__(self, images: Sized, ranks: int, rank: int, seed: int, epoch: int = 0, skipped: int = 0) -> None:
        super().__init__(cast(Any, images), ranks, rank, shuffle=True, seed=seed, drop_last=True)
        self.set_epoch(epoch)
        self.first_epoch, self.skipped = epoch, skipped

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.skipped if self.epoch == self.first_epoch else 0, None)


def require_same_batches(before: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Raise :class:`InputError` if a setting that determines the batches of an epoch was another in the checkpoint."""
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(
                f"The {name.replace('_', ' ')} was {before.get(name)} in the checkpoint and is {value} now: a run can "
                "only resume with the same batches. Set it back, or start a new run."
            )
