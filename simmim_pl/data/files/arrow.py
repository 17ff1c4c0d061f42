"""Encoded images in a column of a Hugging Face data set: read from its memory-mapped files, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.data.files.digest import file_stats
from simmim_pl.data.files.encoded import Encoded, EncodedImages, ImageBytes


class ArrowImages(EncodedImages):
    """Images of a column: bytes, or paths.

    The files are mapped, not opened at a position, so worker processes share their pages and nothing else.

    Args:
        rows: a ``datasets.Dataset`` that is not held in memory.
        column: name of the column, of ``datasets.Image``, bytes or paths.
        name: of the data set and split, for errors.
    """

    def __init__(self, rows: Any, column: str, name: str) -> None:
        self.rows = rows.select_columns([column]).with_format("arrow")  # so datasets does not decode
        self.column, self.name = column, name

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int]) -> list[Encoded]:
        """Raises :class:`InputError` if the column is of another type."""
        values = self.rows[list(positions)].column(self.column).to_pylist()
        return [self.encoded(value, position) for value, position in zip(values, positions, strict=True)]

    def encoded(self, value: Any, position: int) -> Encoded:
        """The image of a row; without any bytes where it has none, which is a damaged image."""
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        content = next((found for found in (content, path) if found is not None), b"")
        name = f"row {position} of {self.name}" + (f": {path}" if path else "")
        if not isinstance(content, str | bytes):
            raise InputError(f"{name} holds no image in the column {self.column}: set image_column.")
        return content if isinstance(content, str) else ImageBytes(name, content)

    def stats(self) -> object:
        """Of the data set's files, and of the image files where it holds only their paths."""
        files = [file["filename"] for file in self.rows.cache_files]
        return file_stats(files), file_stats(self.outside()), self.column, len(self)

    def outside(self) -> list[str]:
        """Paths of images whose bytes are not in the data set."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.rows[:].column(self.column)
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column.filter(pc.is_null(pc.struct_field(column, "bytes"))), "path")
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        return [path for path in column.to_pylist() if path] if text else []

    @property
    def paths(self) -> None:
        """Images have no files of their own."""
