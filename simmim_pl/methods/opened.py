"""A method from a checkpoint of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simmim_pl.runtime.checkpoint import load_checkpoint, meta_state_dict, require_same_architecture
from simmim_pl.runtime.from_config import build_method


def opened(kind: type, path: str | Path, allow: Sequence[str], given: dict[str, Any]) -> Any:
    """See :meth:`simmim_pl.methods.method.Method.load_from_checkpoint`."""
    saved = load_checkpoint(path)

    def made() -> Any:
        return build_method(kind, saved, str(path), frozenset(allow), given)

    if not (allow or given) and (own := meta_state_dict(made)):  # only classes of this package: check before allocating
        require_same_architecture(saved["state_dict"], own, path)
    method = made()
    require_same_architecture(saved["state_dict"], method.state_dict(), path)
    method.load_state_dict(saved["state_dict"])
    return method
