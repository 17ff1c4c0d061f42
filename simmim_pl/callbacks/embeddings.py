"""Write what ``predict`` embeds to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl import distributed, durable
from simmim_pl.records import Batch, InputError


class Embeddings(Callback):
    """Writes ``embeddings.parquet`` to the run directory: a row an image, in the data set's order.

    Columns: ``index``, the image's place in its split of the source; ``label``, of a labelled set; ``path``, of a set
    of files; ``features``, a list of D float32. pandas, polars and DuckDB read it.
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
        *_: int,
    ) -> None:
        part = {"index": outputs["index"].cpu(), "features": outputs["features"].float().cpu()}
        self.parts.append(part | ({"label": batch["label"].cpu()} if "label" in batch else {}))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = pl_module.device
        whole = {name: torch.cat([part[name] for part in self.parts]).to(device) for name in self.parts[0]}
        rows = {name: distributed.gather_uneven(column).cpu() for name, column in whole.items()}
        order = rows["index"].argsort()
        index, features = rows["index"][order], rows["features"][order]
        label = rows["label"][order] if "label" in rows else None
        folder = trainer.log_dir  # asks all ranks
        if trainer.is_global_zero and folder is not None:
            path = Path(folder, "embeddings.parquet")
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            write(path, index, features, label, None if data is None else data.paths(index))
            rank_zero_info(f"Wrote {len(order)} embeddings of width {features.shape[1]} to {path}")


def write(
    path: Path,
    index: Int64[Tensor, " N"],
    features: Float[Tensor, "N D"],
    label: Int64[Tensor, " N"] | None,
    paths: list[str] | None,
) -> None:
    """Write a table whole. Raises :class:`InputError` when the disk is full or cannot be written."""
    import pyarrow as pa  # a third of a second, for what only predict needs
    from pyarrow import parquet

    columns = {"index": pa.array(index.numpy())}
    if label is not None:
        columns["label"] = pa.array(label.numpy())
    if paths is not None:
        columns["path"] = pa.array(paths)
    columns["features"] = pa.FixedSizeListArray.from_arrays(features.flatten().numpy(), features.shape[1])
    try:
        durable.write(path, lambda file: parquet.write_table(pa.table(columns), file))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}): make room on the disk, or set --runs.") from error
