"""A checkpoint's encoder, with the config and progress of its run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simmim_pl.contracts import Encoder
from simmim_pl.encoders.layer import statistics
from simmim_pl.runtime.checkpoint import Network, build_encoder, encoder_config, load_checkpoint


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint's encoder, in eval mode and float32, on the CPU.

    Attributes:
        path: the checkpoint.
        encoder: its encoder.
        spec: config of the encoder, ``class_path`` and ``init_args``.
        network: whose encoder, ``online`` or ``teacher``.
        config: config of the whole run.
        progress: of the run: ``global_step``, ``epoch`` and ``version``, where the checkpoint has them.
        allow: classes outside this package that may be imported to build the encoder.
    """

    path: Path
    encoder: Encoder
    spec: dict[str, Any]
    network: Network
    config: dict[str, Any]
    progress: dict[str, Any]
    allow: Sequence[str] = ()

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the encoder's constructor, those that its config leaves out at their defaults."""
        bound = inspect.signature(type(self.encoder)).bind_partial(**self.spec.get("init_args") or {})
        bound.apply_defaults()
        return dict(bound.arguments)

    @property
    def kind(self) -> str:
        """Name of the encoder's class."""
        return type(self.encoder).__name__

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the channels, as short as float32 allows."""
        mean, std = statistics(self.encoder)
        return [float(f"{each:.7g}") for each in mean], [float(f"{each:.7g}") for each in std]


def load_pretrained(path: Path, network: Network, allow: Sequence[str]) -> Pretrained:
    """Load what is exported, through the loader that runs nothing that a checkpoint names.

    Raises:
        InputError: as :func:`simmim_pl.runtime.checkpoint.load_encoder`.
    """
    saved = load_checkpoint(path)
    encoder = build_encoder(path, saved, allow=allow, network=network).float().requires_grad_(False)
    progress = {
        key: saved[key] for key in ("global_step", "epoch", "version") if isinstance(saved.get(key), (int, str))
    }
    return Pretrained(path, encoder, encoder_config(path, saved), network, saved["config"], progress, allow)
