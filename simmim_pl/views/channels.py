"""Operations for images of any number of channels: what means nothing without colour is left out, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.contracts import InputError
from simmim_pl.views.color_jitter import ColorJitter
from simmim_pl.views.grayscale import LUMA, Grayscale
from simmim_pl.views.operation import Operation


def for_channels(operations: Sequence[Operation], channels: int, listed: bool) -> list[Operation]:
    """The operations for images of so many channels: all of them for RGB.

    Saturation, hue and grayscale are of RGB only. Where they are defaults, they are left out with a message.

    Args:
        operations: of a view, in order.
        channels: of the images.
        listed: whether the user listed the operations.

    Raises:
        InputError: the user asked for an operation that means nothing.
    """
    if channels == len(LUMA):
        return list(operations)
    found: list[Operation] = []
    asked: list[str] = []  # by the user
    without: list[str] = []  # by default
    for each in operations:
        settings = colour_settings(each)
        for name, (value, default) in settings.items():
            explicit = value != default or (listed and isinstance(each, Grayscale))
            (asked if explicit else without).extend([name] if value else [])
        if isinstance(each, ColorJitter):
            found.append(ColorJitter(each.probability, *each.strength[:2], saturation=0, hue=0))
        elif not isinstance(each, Grayscale):
            found.append(each)
    if asked:
        options = "in operations" if listed else f"with {' '.join(f'--data.views.{name} 0' for name in asked)}"
        raise InputError(
            f"{', '.join(asked)} {'is' if len(asked) == 1 else 'are'} of RGB only, and the images have "
            f"{counted(channels)}: set {'it' if len(asked) == 1 else 'them'} to 0 {options}."
        )
    if without:
        rank_zero_info(f"Views of {counted(channels)} are made without what is of RGB only: {', '.join(without)}.")
    return found


def colour_settings(operation: Operation) -> dict[str, tuple[float, float]]:
    """Name, value and default of the settings that mean something for RGB only."""
    defaults = inspect.signature(type(operation).__init__).parameters
    if isinstance(operation, ColorJitter):
        values = dict(zip(("saturation", "hue"), operation.strength[2:], strict=True))
        values = values if operation.probability else dict.fromkeys(values, 0.0)
        return {name: (value, defaults[name].default) for name, value in values.items()}
    if isinstance(operation, Grayscale):
        return {"grayscale": (operation.probability, defaults["probability"].default)}
    return {}


def counted(channels: int) -> str:
    """The number of channels in words.

    >>> counted(1), counted(5)
    ('1 channel', '5 channels')
    """
    return f"{channels} channel{'s' * (channels != 1)}"
