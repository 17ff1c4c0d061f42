"""Write the embeddings of ``predict`` to a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.contracts import Batch
from simmim_pl.runtime import atomic, distributed

UNKNOWN = -1  # label of an image that has none


class Embeddings(Callback):
    """Writes ``embeddings.parquet`` to the run directory: a row per image, in the data set's order, train before test.

    Columns: ``split`` (validation is held out of train); ``index``, the image's position in the source's train or test;
    ``label``, if the set is labelled; ``path``, if it is made of files; ``features``, a list of D float32. pandas,
    polars and DuckDB read it.
    """

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
        dataloader_idx: int = 0,
    ) -> None:
        index = outputs["index"].cpu()
        known = {"index": index, "part": torch.full_like(index, dataloader_idx)}
        known["label"] = batch["label"].cpu() if "label" in batch else torch.full_like(index, UNKNOWN)
        self.parts.append(known | {"features": outputs["features"].float().cpu()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = pl_module.device
        whole = {name: torch.cat([part[name] for part in self.parts]).to(device) for name in self.parts[0]}
        rows = {name: distributed.all_gather_uneven(column).cpu() for name, column in whole.items()}
        order = rows["index"].argsort(stable=True)
        order = order[rows["part"][order].argsort(stable=True)]
        rows = {name: column[order] for name, column in rows.items()}
        folder, data = trainer.log_dir, trainer.datamodule  # type: ignore[attr-defined]  # the first asks all ranks
        if trainer.is_global_zero and folder is not None:
            path = Path(folder, "embeddings.parquet")
            origin = getattr(data, "origin", lambda part, index: (["all"] * len(part), None))
            split, files = origin(rows["part"], rows["index"])
            write(path, split, rows["index"], rows["features"], rows["label"], files)
            counts = ", ".join(f"{number} of {name}" for name, number in Counter(split).items())
            rank_zero_info(f"Wrote {len(order)} embeddings of width {rows['features'].shape[1]} to {path}: {counts}")


def write(
    path: Path,
    split: list[str],
    index: Int64[Tensor, " N"],
    features: Float[Tensor, "N D"],
    label: Int64[Tensor, " N"],
    paths: list[str] | None,
) -> None:
    """Write the table atomically. Raises :class:`OSError` when the disk is full or cannot be written."""
    import pyarrow as pa  # takes a third of a second, and only predict needs it
    from pyarrow import parquet

    columns = {"split": pa.array(split), "index": pa.array(index.numpy())}
    if (label != UNKNOWN).any():
        columns["label"] = pa.array(label.numpy(), mask=(label == UNKNOWN).numpy())
    if paths is not None:
        columns["path"] = pa.array(paths)
    columns["features"] = pa.FixedSizeListArray.from_arrays(features.flatten().numpy(), features.shape[1])
    atomic.write(path, lambda file: parquet.write_table(pa.table(columns), file))
