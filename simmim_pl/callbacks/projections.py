"""Validation images as training would see them: two views of each, the same at every validation."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Trainer
from torch import Tensor

from simmim_pl.runtime.seeding import make_generator


def projections(
    trainer: Trainer, method: Any, image: UInt8[Tensor, "B 3 H W"], batch_idx: int
) -> Float[Tensor, "2 B P"]:
    """Two views of each image, projected as training would, but by the encoder in evaluation."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    generator = make_generator(
        data.seed, -1 - batch_idx, image.device, *data.rank_and_world_size()
    )  # no training step's
    views = data.views(image, generator)[:2]
    with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
        z: Tensor = method.project(views)[1]
    return z.float()
