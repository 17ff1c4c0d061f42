"""Settings that are a least and a greatest."""

from __future__ import annotations

from simmim_pl.contracts import InputError


def require_ordered(**limits: tuple[float, float]) -> None:
    """Refuse a least that is above the greatest."""
    for name, (least, greatest) in limits.items():
        if least > greatest:
            raise InputError(f"{name} has to be a least and a greatest, and is [{least}, {greatest}].")
