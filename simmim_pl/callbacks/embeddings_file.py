"""Write and extend a table of embeddings, row group by row group."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.runtime import atomic

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096  # of a row group: what is kept in memory, 32 MB of 2048 features


class EmbeddingsFile:
    """A Parquet file that is written as rows come, and appears whole under its name when it is closed.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.opened, self.waiting = path, ExitStack(), list[Any]()
        self.writer: Any = None

    def add(self, rows: pa.Table) -> None:
        """Append rows; the first ones set the schema. Raises :class:`WriteError` when the disk cannot be written."""
        from pyarrow import parquet

        if self.writer is None:
            file = self.opened.enter_context(atomic.replacing(self.path))
            writer = parquet.ParquetWriter(file, rows.schema, use_dictionary=["split"])  # features do not repeat
            self.writer = self.opened.enter_context(writer)
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        import pyarrow as pa

        with atomic.name_file_in_errors(self.path):
            self.writer.write_table(pa.concat_tables(self.waiting))
        self.waiting.clear()

    def close(self) -> None:
        """Write the rest, and give the file its name. Raises :class:`WriteError` when the disk cannot be written."""
        if self.waiting:
            self.flush()
        self.opened.close()

    def discard(self) -> None:
        """Remove what was written, after an error; the name keeps what it had."""
        with suppress(Exception):  # a full disk, when the writer adds the end of the file
            self.opened.__exit__(GeneratorExit, GeneratorExit(), None)
        if self.writer is not None:
            self.writer.is_open = False  # or pyarrow tries again when the object is deleted


def table(columns: dict[str, Any], features: Float[np.ndarray, "n D"]) -> pa.Table:
    """An Arrow table of these columns, and of ``features`` as lists of D float32."""
    import pyarrow as pa  # takes a third of a second, and only predict needs it

    lists = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(features).ravel(), features.shape[1])
    return pa.table({name: pa.array(column) for name, column in columns.items()} | {"features": lists})


def add_map(path: Path, place: Callable[[Float[Tensor, "n D"]], Float[Tensor, "n 2"]]) -> None:
    """Add columns ``x`` and ``y`` to a table, reading it one row group at a time; NaN becomes null.

    Args:
        path: the file, replaced atomically.
        place: coordinates of features.

    Raises:
        WriteError: the disk is full or cannot be written; the table is as before.
    """
    import pyarrow as pa
    from pyarrow import parquet

    mapped = EmbeddingsFile(path)
    try:
        with parquet.ParquetFile(path) as known:
            for number in range(known.num_row_groups):
                rows = known.read_row_group(number)
                features = rows["features"].combine_chunks()
                places = place(torch.tensor(features.flatten().to_numpy()).view(len(rows), -1)).numpy()
                for name, column in zip("xy", places.T, strict=True):
                    rows = rows.append_column(name, pa.array(column, from_pandas=True))
                mapped.add(rows)
        mapped.close()
    except BaseException:
        mapped.discard()
        raise
