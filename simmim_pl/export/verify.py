"""Run an exported file by the lines of its card, and compare it with the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import Encoder, InputError

# Of the largest feature. Float32 has 7 digits, and other kernels add up in another order: ONNX's of our networks differ
# by 1e-6. Another normalisation, order of channels or activation differs by more than a hundredth.
TOLERANCE = 1e-4
OTHER = "export to another format."
OUTPUTS = ("pooled", "feature_map")


@dataclass(frozen=True)
class Difference:
    """Between the outputs of the exported file and those of the encoder.

    Attributes:
        largest: largest absolute difference.
        magnitude: largest absolute value of what the encoder gives.
    """

    largest: float
    magnitude: float


def verify(
    loading: Sequence[str], running: Sequence[str], encoder: Encoder, images: Float[Tensor, "B C S S"], name: str
) -> Difference:
    """Load a file and run it on all images, and on fewer of them, by the very lines that its card prints.

    So what a reader copies is what was compared. The lines are made by the formats of this package; of a checkpoint
    they quote texts and numbers only.

    Args:
        loading: lines of Python that load the file.
        running: lines that make ``pooled`` of ``images``, and ``feature_map`` if the file gives one.
        encoder: in eval mode.
        images: at least two.
        name: of the format, for errors.

    Raises:
        InputError: the encoder cannot tell the images apart; the lines fail, or give something else than the encoder.
    """
    try:
        with torch.no_grad():
            batches = [images, images[: (len(images) + 1) // 2 - 1 or 1]]
            wanted = [encoder(batch)._asdict() for batch in batches]
    except Exception as error:  # its own, or torch's where an image is too small
        side, reason = images.shape[-1], first_line(error)
        raise InputError(
            f"The encoder cannot encode images of {side}×{side} pixels ({reason}): give another --size."
        ) from error
    if all(torch.equal(row, wanted[0]["pooled"][0]) for row in wanted[0]["pooled"]):
        raise InputError(
            f"The encoder gives the same features for all {len(images)} images, so a comparison would show nothing: "
            "give other --images, or another checkpoint."
        )
    try:
        found = run("\n".join(loading), "\n".join(running), batches)
    except Exception as error:  # whatever the library raises
        reason = first_line(error)
        raise InputError(f"{name} cannot run what was exported ({reason}), so nothing is written: {OTHER}") from error
    pairs = [(each[key], want[key]) for each, want in zip(found, wanted, strict=True) for key in OUTPUTS if key in each]
    return compare(pairs, name)


def first_line(error: Exception) -> str:
    """What an error says first, or its name."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def run(loading: str, running: str, batches: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Execute the lines, and then for each batch those that run what they loaded."""
    names: dict[str, Any] = {}
    found = []
    with torch.no_grad():
        exec(loading, names)
        for batch in batches:
            own = {**names, "images": batch}
            exec(running, own)
            found.append({key: torch.as_tensor(own[key]) for key in OUTPUTS if key in own})
    return found


def compare(pairs: Sequence[tuple[Tensor, Tensor]], name: str) -> Difference:
    """The largest difference of tensors from those that they should be.

    Raises:
        InputError: shapes differ, or values by more than ``TOLERANCE`` of the largest, or are not finite.
    """
    for each, want in pairs:
        if each.shape != want.shape:
            raise InputError(f"{name} gives {list(each.shape)} for {list(want.shape)} of the encoder: {OTHER}")
    largest = torch.stack([(each - want).abs().max() for each, want in pairs]).max().item()
    magnitude = torch.stack([want.abs().max() for _, want in pairs]).max().item()
    if not largest <= TOLERANCE * magnitude:  # nor nan
        raise InputError(
            f"What {name} computes differs from the encoder by {largest:.2g}, where features are up to "
            f"{magnitude:.2g}, so nothing is written: {OTHER}"
        )
    return Difference(largest, magnitude)
