"""Features of a whole split: put together from all ranks, checked, and kept on disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic, distributed

# Features [N, D] of images, or [N, T, D] of clips, with their labels.
Labelled = tuple[Float[Tensor, "_ *T D"], Int64[Tensor, " _"]]
ROUNDING = 1e-6  # a standard deviation this small relative to the mean is float32's rounding, not variation


def collect(parts: Sequence[tuple[Tensor, ...]], split: str) -> Labelled:
    """All ranks' rows in the data set's order. Raises :class:`InputError` when features are not finite or all equal."""
    rows = (torch.cat(column) for column in zip(*parts, strict=True))
    features, labels, index = (distributed.all_gather_uneven(column) for column in rows)
    bad = (~features.isfinite().flatten(1).all(1)).sum().item()
    if bad:
        raise InputError(
            f"The encoder gave NaN or infinite features for {bad} of {len(features)} {split} images: its training "
            "diverged, or its precision is too low (try --trainer.precision 32-true)."
        )
    rows_of_all = features.flatten(0, -2)
    if len(rows_of_all) > 1 and not varies(rows_of_all).any():
        raise InputError(
            f"The encoder gave the same features for all {len(features)} {split} images: it has collapsed, and there "
            "is nothing to evaluate."
        )
    order = index.argsort()
    return features[order], labels[order]


@contextmanager
def together() -> Iterator[None]:
    """In this context, if one rank raises an :class:`InputError`, all ranks raise instead of waiting for it."""
    failure: InputError | None = None
    try:
        yield
    except InputError as error:
        failure = error
    if not distributed.all_ranks(failure is None):
        raise failure or InputError("Another device stopped: its own error message gives the reason.")


def varies(features: Float[Tensor, "N D"]) -> Bool[Tensor, " D"]:
    """Which features differ between items by more than rounding."""
    return features.std(0, correction=0) > ROUNDING * features.mean(0).abs()


def read_cache(path: Path) -> Labelled | None:
    """Cached features; ``None`` if there are none or the file is damaged."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        known = saved["features"], saved["label"]
        return known if saved["checksum"] == checksum(known) else None
    except Exception:  # whatever a damaged file raises: the features are simply extracted again
        return None


def checksum(known: Labelled) -> list[int]:
    """CRC-32 of the numbers of each part."""
    return [zlib.crc32(part.contiguous().numpy().data) for part in known]


def write_cache(path: Path, known: Labelled) -> None:
    """Write features atomically. A folder that cannot be written is a warning; a full disk ends the run.

    Raises:
        OSError: the disk is full.
    """
    features, label = (part.cpu() for part in known)
    saved = {"features": features, "label": label, "checksum": checksum((features, label))}
    try:
        atomic.write(path, lambda file: torch.save(saved, file))
    except OSError as error:
        if atomic.is_disk_full(error):
            raise
        rank_zero_warn(
            f"Features cannot be cached in {path.parent} ({error}); the next evaluation extracts them again."
        )
