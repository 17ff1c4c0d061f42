"""Random numbers that depend on seed, step and image only: never on global state or the number of ranks."""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor


class RankGenerator(torch.Generator):
    """A generator that knows which images of a batch belong to this rank, see :func:`uniform`.

    A plain ``torch.Generator`` counts as rank 0 of 1.

    Attributes:
        rank: index of this process.
        ranks: number of ranks that share the batch.
    """

    rank: int = 0
    ranks: int = 1


def make_generator(
    seed: int, step: int, device: torch.device, rank: int = 0, ranks: int = 1, purpose: str = "0"
) -> RankGenerator:
    """A generator seeded by seed, step and purpose: a resumed run draws the same numbers, on any number of ranks.

    Args:
        seed: of the run.
        step: optimizer step.
        device: of the generator, and of the numbers drawn from it.
        rank: index of this process.
        ranks: number of ranks that share the batch.
        purpose: draws of one step that have nothing to do with each other have different ones.
    """
    generator = RankGenerator(device)
    generator.manual_seed(derive_seed(seed, step, purpose))
    generator.rank, generator.ranks = rank, ranks
    return generator


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed that is different for every (seed, step, purpose)."""
    return random.Random(f"{seed} {step} {purpose}").getrandbits(63)


def uniform(generator: torch.Generator, *shape: int, along: int) -> Float[Tensor, "*shape"]:
    """Uniform numbers in [0, 1) for this rank's images.

    Every rank draws the numbers of the whole batch and keeps those of its own images: local image j is image
    ``j · ranks + rank`` of the batch, as torch's ``DistributedSampler`` assigns them. So an image gets the same numbers
    on any number of ranks.

    Args:
        generator: see :func:`make_generator`.
        shape: of the result.
        along: the axis over this rank's images.
    """
    rank, ranks = rank_of(generator)
    whole = [size * ranks if axis == along else size for axis, size in enumerate(shape)]
    numbers = torch.rand(whole, generator=generator, device=generator.device)
    mine = [slice(rank, None, ranks) if axis == along else slice(None) for axis in range(len(shape))]
    return numbers[tuple(mine)]


def rank_of(generator: torch.Generator) -> tuple[int, int]:
    """Which of how many ranks takes its share of what the generator draws."""
    return getattr(generator, "rank", 0), getattr(generator, "ranks", 1)
