"""Check settings that are a pair of a least and a greatest value."""

from __future__ import annotations

from simmim_pl.contracts import InputError


def require_ordered(**limits: tuple[float, float]) -> None:
    """Raise :class:`InputError` if a least value is above its greatest."""
    for name, (least, greatest) in limits.items():
        if least > greatest:
            raise InputError(f"{name} has to be a minimum and a maximum, and is [{least}, {greatest}].")
