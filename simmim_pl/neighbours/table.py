"""Read a table of embeddings, with its features on disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

ADVICE = "give the embeddings.parquet that `python -m simmim_pl predict` wrote."
NEEDED = ("split", "index", "features")


@dataclass(frozen=True)
class Table:
    """What ``predict`` wrote.

    Attributes:
        path: the Parquet file.
        known: its columns, without the features.
        features: of all rows, ``[N, D]`` float32. They are mapped from a file, so that only what is used is in memory.
    """

    path: Path
    known: pa.Table
    features: Float[Tensor, "N D"]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def paths(self) -> list[str | None]:
        """Paths of the images in the order of rows, ``None`` for one that is no file; empty if none is."""
        return self.known["path"].to_pylist() if "path" in self.known.column_names else []

    def value(self, column: str, row: int) -> Any:
        """A cell; ``None`` where the table has no such column."""
        return self.known[column][row].as_py() if column in self.known.column_names else None

    def name(self, row: int) -> str:
        """The file of an image, or else its split and index."""
        return self.value("path", row) or f"{self.value('split', row)} {self.value('index', row)}"


def read_table(path: Path, scratch: Path) -> Table:
    """Read a table row group by row group.

    Args:
        path: the Parquet file.
        scratch: a folder for the features, as a nameless file of ``4 · N · D`` bytes.

    Raises:
        InputError: there is no such file, it is not of ``predict``, or a feature is NaN or infinite.
        OSError: the features do not fit on the disk.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        raise InputError(f"There is no file {path}: {ADVICE}")
    with tempfile.TemporaryFile(dir=scratch) as copy:
        try:
            with parquet.ParquetFile(path) as file:
                width = require_embeddings(file, path)
                known = file.read([name for name in file.schema_arrow.names if name != "features"])
                bad = sum(
                    append(copy, rows["features"], width) for rows in file.iter_batches(4096, columns=["features"])
                )
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, atomic.WriteError):
                raise
            raise InputError(f"{path} cannot be read as Parquet ({first_sentence(error)}): {ADVICE}") from error
        if bad:
            raise InputError(
                f"{bad} of the {len(known)} rows of {path} have features that are missing, NaN or infinite: the "
                "training of their encoder diverged."
            )
        if not len(known):
            raise InputError(f"{path} has no rows: there is nothing to compare.")
        features = np.memmap(copy, np.float32, "c", shape=(len(known), width))  # "c": torch warns of read-only arrays
    return Table(path, known, torch.from_numpy(features))


def require_embeddings(file: parquet.ParquetFile, path: Path) -> int:
    """The number of features of a row. Raises :class:`InputError` unless the columns are those of ``predict``."""
    import pyarrow.types as types

    schema = file.schema_arrow
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}: {ADVICE}")
    kind = schema.field("features").type
    if not types.is_fixed_size_list(kind) or not types.is_floating(kind.value_type):
        raise InputError(f"The features of {path} are {kind}, not lists of numbers of one length: run predict again.")
    return int(kind.list_size)


def append(file: IO[bytes], column: pa.Array, width: int) -> int:
    """Append features to a file; the number of rows that are missing or not finite."""
    if column.null_count:
        return int(column.null_count)
    rows = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)
    with atomic.name_file_in_errors(Path("The copy of the features")):
        file.write(rows.data)
        file.flush()
    return int((~np.isfinite(rows).all(1)).sum())


def first_sentence(error: Exception) -> str:
    """The first sentence of an error."""
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
