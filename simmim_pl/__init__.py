"""Pretrain image encoders without labels, and evaluate them honestly. Start at ``methods/contrastive.py``.

``from simmim_pl import load_encoder`` loads the encoder of a checkpoint, see
:func:`simmim_pl.runtime.checkpoint.load_encoder`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_encoder"]


def __dir__() -> list[str]:
    """What notebooks complete and ``help`` shows."""
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Import lazily: importing torch takes seconds, which ``__version__`` does not need."""
    if name != "load_encoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from simmim_pl.runtime.checkpoint import load_encoder

    return load_encoder
