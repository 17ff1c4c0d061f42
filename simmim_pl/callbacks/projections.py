"""Validation images as training would see them: two views of each, the same at every validation."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt
from lightning.pytorch import Trainer
from torch import Tensor

from simmim_pl.runtime.seeding import make_generator


def lacking(trainer: Trainer, method: Any) -> str | None:
    """What is missing to compare projections of views, in words; None where nothing is."""
    if not hasattr(method, "project"):
        return f"{type(method).__name__} has no projections of views to compare"
    if getattr(trainer.datamodule, "views", None) is None:  # type: ignore[attr-defined]
        return "the datamodule has no views to make of validation images"
    return None


def projections(
    trainer: Trainer, method: Any, image: UInt[Tensor, "B C H W"], batch_idx: int
) -> Float[Tensor, "2 B P"]:
    """Two views of each image, projected as in training, but with the encoder in its current mode."""
    place = trainer.global_rank, trainer.world_size
    generator = make_generator(method.seed, -1 - batch_idx, image.device, *place)  # no training step's
    views = trainer.datamodule.views(image, generator)[:2]  # type: ignore[attr-defined]
    with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
        z: Tensor = method.project(views)[1]
    return z.float()
