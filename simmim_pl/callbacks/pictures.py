"""Pictures that a method makes of validation images, for the report and W&B."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchvision.utils import make_grid

from simmim_pl.contracts import Batch
from simmim_pl.report.observed import PICTURE
from simmim_pl.runtime.pixels import as_rgb
from simmim_pl.runtime.ranges import PositiveInt, ranged


class Pictures(Callback):
    """Keeps what :meth:`simmim_pl.methods.method.Method.pictures` returns at every validation; most methods have none.

    Args:
        images: number of validation images to show: the first ones, the same at every validation.
    """

    @ranged
    def __init__(self, images: PositiveInt = 8) -> None:
        self.images = images
        self.found: dict[str, Any] = {}  # at the last validation, on rank zero

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        pictures = getattr(pl_module, "pictures", None)
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero or pictures is None:
            return
        few: Any = {name: rows[: self.images] for name, rows in batch.items()}  # type: ignore[index]
        with trainer.precision_plugin.forward_context(), torch.random.fork_rng(devices=[]):
            shown: dict[str, Tensor] = pictures(few)
        wrong = [name for name, rows in shown.items() if rows.ndim != 5]
        if wrong:
            rank_zero_warn(f"{type(pl_module).__name__}.pictures has to return [N, K, C, H, W], and {wrong[0]} is not.")
        found = {f"{PICTURE}{name}": grid(rows) for name, rows in shown.items() if name not in wrong}
        self.found = found | {"step": trainer.global_step} if found else {}


def grid(rows: Float[Tensor, "N K C H W"]) -> UInt8[Tensor, "h w 3"]:
    """One picture, one image per row, on the CPU."""
    whole: Tensor = make_grid(as_rgb(rows.detach().float().cpu().flatten(0, 1)), nrow=rows.shape[1])
    return (whole.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
