"""Hold out a stratified validation split."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.contracts import InputError


def train_val_split(
    size: int, labels: Int64[Tensor, " N"] | None, amount: int | float, seed: int
) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " held"]]:
    """Split positions into training and validation, stratified by class. Depends on the arguments only.

    Args:
        size: N, number of images.
        labels: class of each image, int64 ``[N]``. Each class then has its proportional number of validation images,
            to within one. ``None`` for a random split.
        amount: images to hold out: an int is a number, a float a fraction below 1.
        seed: of the random choice.

    Returns:
        Positions kept for training and positions held out, int64, both ascending.

    Raises:
        InputError: no image would be left to train on, or the amount is negative.

    >>> kept, held = train_val_split(6, torch.tensor([0, 0, 0, 1, 1, 1]), 2, seed=0)
    >>> len(kept), sorted(held // 3)
    (4, [tensor(0), tensor(1)])
    """
    number = amount if isinstance(amount, int) else round(amount * size) if 0 <= amount < 1 else size
    if not 0 <= number < size:
        raise InputError(
            f"validation: {amount} cannot be held out of {size} training images: choose a number below {size} or "
            "a share below 1."
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(size, generator=generator)
    if labels is not None:
        shuffled = shuffled[stratified_order(labels[shuffled], number)]
    return shuffled[number:].sort().values, shuffled[:number].sort().values


def stratified_order(labels: Int64[Tensor, " N"], number: int) -> Int64[Tensor, " N"]:
    """An order of the images whose first ``number`` are stratified by class (largest remainder method)."""
    by_class, counts = labels.argsort(stable=True), labels.bincount()
    quota, rest = counts * number // len(labels), counts * number % len(labels)
    quota[rest.argsort(descending=True, stable=True)[: number - int(quota.sum())]] += 1
    nth = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return by_class[(nth >= quota.repeat_interleave(counts)).byte().argsort(stable=True)]
