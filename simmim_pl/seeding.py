"""Randomness that is a function of a run's place, never of global state."""

from __future__ import annotations

import random

import torch


def seeded(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """A generator that depends on its arguments only: a resumed run repeats an uninterrupted one."""
    state = random.Random(f"{seed} {step} {rank}").getrandbits(63)
    return torch.Generator(device).manual_seed(state)
