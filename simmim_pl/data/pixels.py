"""Check dtype and shape of the pixels that a source returns."""

from __future__ import annotations

from typing import Any

import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.pixels import WHITE


def require_pixels(pixels: Any, number: int, clips: bool, name: str) -> None:
    """Refuse pixels that are not uint8 or uint16 ``[B, C, H, W]``, or ``[B, T, C, H, W]`` of clips. No value is read.

    Args:
        pixels: what the source returned.
        number: B, items that were asked for.
        clips: whether the items are clips.
        name: of the data set, for the error.

    Raises:
        InputError: with the dtype and shape found and those required.
    """
    due = f"uint8 [{number}, T, C, H, W] of clips" if clips else f"uint8 [{number}, C, H, W]"
    found = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}" if torch.is_tensor(pixels) else None
    if found is None:
        raise InputError(f"{name} gave pixels as {type(pixels).__name__}, and a torch.Tensor is required: {due}.")
    shape = tuple(pixels.shape)
    last = len(shape) > 2 and shape[-1] in (1, 3, 4) and shape[-3] > 3  # channels, where the width should be
    if len(shape) == 4 + clips and shape[0] == number and min(shape[1:]) > 0 and not last:
        if pixels.dtype in WHITE:
            return
        raise InputError(
            f"{name} gave pixels as {found}, and {due} is required, from 0 to 255: multiply floats in [0, 1] by 255, "
            "round them, and convert them by .to(torch.uint8); or by 65535 and .to(torch.uint16)."
        )
    raise InputError(
        f"{name} gave pixels as {found}, and {due} is required: channels before height and width, and one item for "
        "each requested index."
    )
