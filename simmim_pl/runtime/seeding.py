"""Randomness that is a function of a run's place, never of global state, and the same on any number of ranks."""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor


class Share(torch.Generator):
    """A generator of which each rank takes its images' share, see :func:`uniform`.

    Attributes:
        rank: of this process.
        ranks: that share the batch. A plain ``torch.Generator`` is that of a process which has the whole batch.
    """

    rank: int = 0
    ranks: int = 1


def seeded(seed: int, step: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Share:
    """A generator that depends on seed and step only: a resumed run repeats an uninterrupted one, on any ranks."""
    generator = Share(device)
    generator.manual_seed(derive_seed(seed, step, "0"))
    generator.rank, generator.ranks = rank, ranks
    return generator


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A seed of its own for a purpose at a step of a run."""
    return random.Random(f"{seed} {step} {purpose}").getrandbits(63)


def uniform(generator: torch.Generator, *shape: int, along: int) -> Float[Tensor, ...]:
    """Numbers in [0, 1), of which axis ``along`` runs over this rank's images.

    They are drawn for the whole batch, on every rank the same, and each rank takes its own: its image j is the batch's
    ``j · ranks + rank``, as torch's ``DistributedSampler`` deals them. So an image has the views that it would have had
    if one process had drawn them all.
    """
    rank, ranks = rank_of(generator)
    whole = [size * ranks if axis == along else size for axis, size in enumerate(shape)]
    numbers = torch.rand(whole, generator=generator, device=generator.device)
    mine = [slice(rank, None, ranks) if axis == along else slice(None) for axis in range(len(shape))]
    return numbers[tuple(mine)]


def rank_of(generator: torch.Generator) -> tuple[int, int]:
    """Which of how many ranks takes its share of what the generator draws."""
    return getattr(generator, "rank", 0), getattr(generator, "ranks", 1)
