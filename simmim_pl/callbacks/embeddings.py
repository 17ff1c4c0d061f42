"""Write what ``predict`` embeds to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl import distributed
from simmim_pl.records import Batch


class Embeddings(Callback):
    """Writes ``embeddings.pt`` to the run directory: features ``[N, D]`` and index ``[N]``, in the data set's order."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Tensor]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts.clear()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        *_: int,
    ) -> None:
        self.parts.append({"index": outputs["index"], "features": outputs["features"].float()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = (torch.cat([part[name] for part in self.parts]) for name in ("index", "features"))
        index, features = (distributed.gather_uneven(rows) for rows in whole)
        order = index.argsort()
        folder = trainer.log_dir  # asks all ranks
        if trainer.is_global_zero and folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = Path(folder, "embeddings.pt")
            torch.save({"index": index[order].cpu(), "features": features[order].cpu()}, path)
            rank_zero_info(f"Wrote {len(order)} embeddings of width {features.shape[1]} to {path}")
