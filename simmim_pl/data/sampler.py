"""The order of the training images, and a place in it."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any, cast

from torch.utils.data.distributed import DistributedSampler


class ResumableSampler(DistributedSampler):
    """torch's random order by (seed, epoch), dealt to ranks in turn, which may begin in the middle of an epoch.

    Lightning tells it the epoch, but only when the processes that load data have already asked for the first images: so
    it knows from the beginning in which epoch it starts. Its length is always the whole epoch's.

    Args:
        images: the data set.
        ranks: number of ranks.
        rank: of this process.
        seed: of the order.
        epoch: in which the run goes on.
        skipped: images that this rank has already seen in that epoch.
    """

    def __init__(self, images: Sized, ranks: int, rank: int, seed: int, epoch: int = 0, skipped: int = 0) -> None:
        super().__init__(cast(Any, images), ranks, rank, shuffle=True, seed=seed, drop_last=True)
        self.set_epoch(epoch)
        self.first, self.skipped = epoch, skipped

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.skipped if self.epoch == self.first else 0, None)
