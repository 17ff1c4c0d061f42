"""Write the embeddings of ``predict`` to a file."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.callbacks.embeddings_file import EmbeddingsFile, add_map, table
from simmim_pl.callbacks.principal_axes import PrincipalAxes, places
from simmim_pl.contracts import Batch, InputError
from simmim_pl.runtime import distributed

UNKNOWN = -1  # label of an image that has none


class Embeddings(Callback):
    """Writes ``embeddings.parquet`` to the run directory: a row per image, in the data set's order, train before test.

    Columns: ``split`` (validation is held out of train); ``index``, the image's position in the source's train or test;
    ``label``, if the set is labelled; ``path``, if it is made of files; ``features``, a list of D float32. pandas,
    polars and DuckDB read it. Rows are written as batches come, so that the features of all images are never in memory
    (in Python call ``trainer.predict`` with ``return_predictions=False``, too); the file appears when it is whole. On
    several devices the first gathers every batch and writes: no disk is shared.

    Args:
        map: also write ``x`` and ``y``, a place on a map: coordinates on the first two principal axes of all features,
            scaled to length one. Takes D² numbers of memory, and a second pass over the file.
    """

    def __init__(self, map: bool = False) -> None:
        self.map = map
        self.file: EmbeddingsFile | None = None  # where the table is written, on rank zero
        self.batches: list[float] = []  # of each DataLoader, on the rank that has most of them

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = torch.tensor([trainer.num_predict_batches], dtype=torch.float32, device=pl_module.device)
        self.batches = distributed.all_gather(batches).amax(0).tolist()
        if trainer.world_size > 1 and math.inf in self.batches:
            raise InputError("On several devices predict needs a data set with a length: give it one, or one device.")
        folder = trainer.log_dir  # asks all ranks
        keeps = trainer.is_global_zero and folder is not None
        self.file = EmbeddingsFile(Path(str(folder), "embeddings.parquet")) if keeps else None
        self.counts = Counter[str]()
        self.axes: PrincipalAxes | None = None
        self.first = (-1, np.zeros(0))  # a DataLoader, and the images of its first batch

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = {"index": outputs["index"], "features": outputs["features"].float()}
        rows["label"] = batch.get("label", torch.full_like(rows["index"], UNKNOWN))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.gather(rows, dataloader_idx, data)
        own = trainer.num_predict_batches[dataloader_idx]
        if batch_idx + 1 == own:  # another rank may have one more
            for _ in range(int(self.batches[dataloader_idx] - own)):
                self.gather({name: column[:0] for name, column in rows.items()}, dataloader_idx, data)

    def gather(self, rows: dict[str, Tensor], part: int, data: Any) -> None:
        """Gather a batch of all ranks, and write it on rank zero. All ranks must call it.

        Ranks take images in turn, so that the batch is a contiguous part of the data set when it is sorted.
        """
        whole = {name: distributed.all_gather_uneven(column).cpu() for name, column in rows.items()}
        if self.file is None:
            return
        index, order = np.unique(whole["index"].numpy(), return_index=True)
        if part != self.first[0]:
            self.first = (part, index)
        else:  # a sampler that fills up the last batch repeats the first images
            order = order[~np.isin(index, self.first[1])]
        if len(order):
            self.write({name: column[torch.from_numpy(order)] for name, column in whole.items()}, part, data)

    def write(self, rows: dict[str, Tensor], part: int, data: Any) -> None:
        """Add these rows to the file."""
        assert self.file is not None
        index, label, features = rows["index"], rows["label"], rows["features"]
        origin = getattr(data, "origin", lambda part, index: (["all"] * len(part), None))
        split, paths = origin(torch.full_like(index, part), index)
        if not self.counts:  # the first rows
            self.width = features.shape[1]
            self.axes = PrincipalAxes(self.width) if self.map else None
            self.labelled = bool(getattr(data, "classes", ())) or bool((label != UNKNOWN).any())
        columns: dict[str, Any] = {"split": split, "index": index.numpy()}
        if self.labelled:
            columns["label"] = np.ma.masked_equal(label.numpy(), UNKNOWN)
        if paths is not None:
            columns["path"] = [path.encode(errors="backslashreplace").decode() for path in paths]  # Parquet is UTF-8
        self.file.add(table(columns, features.numpy()))
        self.counts.update(split)
        if self.axes:
            self.axes.add(features)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.file is None:
            return
        self.file.close()
        counts = ", ".join(f"{number} of {name}" for name, number in self.counts.items())
        rank_zero_info(f"Wrote {self.counts.total()} embeddings of width {self.width} to {self.file.path}: {counts}")
        if self.axes:
            mean, axes, explained = self.axes.fit()
            add_map(self.file.path, partial(places, mean=mean, axes=axes))
            first, second = (f"{100 * share:.0f} %" for share in explained.tolist())
            rank_zero_info(f"Its x and y are the principal axes, with {first} and {second} of the variance.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.file is not None:
            self.file.discard()
