"""What to search neighbours of: rows of the table, or new image files, which a checkpoint embeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.data.described import format_of, size_of
from simmim_pl.data.files.decode import decode_batch
from simmim_pl.neighbours.table import Table
from simmim_pl.runtime.checkpoint import load_checkpoint, load_encoder
from simmim_pl.runtime.encoder_file import is_encoder_file
from simmim_pl.runtime.pixels import as_float

SAME = 0.99  # cosine similarity of two embeddings of one image; bfloat16 takes a thousandth


def rows_and_files(asked: Sequence[str], table: Table) -> list[int | str]:
    """The row of each query, given as its number or its path; or the path, if it is of a file outside the table.

    Raises:
        InputError: a query is neither.
    """
    row_of = {os.path.abspath(path): row for row, path in enumerate(table.paths if asked else ()) if path}

    def found(query: str) -> int | str:
        if query.isdecimal() and int(query) < len(table):
            return int(query)
        if query.isdecimal():
            raise InputError(f"--query {query} is no row of {table.path}: they are 0 to {len(table) - 1}.")
        if (row := row_of.get(os.path.abspath(query))) is not None:
            return row
        if not Path(query).is_file():
            raise InputError(f"--query {query} is neither the number of a row, nor a path of the table, nor a file.")
        return query

    return [found(query) for query in asked]


def embed(
    files: Sequence[str], checkpoint: Path | None, size: int | None, allow: Sequence[str], table: Table
) -> Float[Tensor, "Q D"]:
    """Features of new image files.

    Args:
        files: their paths.
        checkpoint: of the encoder that made the table, or an exported encoder.
        size: side of the images in pixels, as in the table; by default what the checkpoint's config says.
        allow: classes outside this package that may be imported to build the encoder.
        table: an image of it is embedded too, if it is here, to see that checkpoint and size are those of the table.

    Raises:
        InputError: checkpoint or size is missing, or gives other features; an image cannot be decoded.
    """
    if checkpoint is None:
        raise InputError(f"--query {files[0]} is not in the table: name the encoder's checkpoint with --checkpoint.")
    encoder = load_encoder(checkpoint, allow=allow)
    config = {} if is_encoder_file(checkpoint) else load_checkpoint(checkpoint)["config"]
    size, form = size or size_of(config), format_of(config)
    if form.channels != "rgb" and form.range is None:
        raise InputError(
            f"The run of {checkpoint} states no range, so a file outside its images cannot be read as they were: "
            "search rows of the table."
        )
    if size is None:
        raise InputError(f"{checkpoint} does not say how large its images are: add --size PIXELS.")
    known = next((row for row, path in enumerate(table.paths) if path and os.path.isfile(path)), None)
    shown = [] if known is None else [table.name(known)]
    with torch.no_grad():
        made: Tensor = encoder(as_float(decode_batch([*files, *shown], size, form))).pooled
    same = made.shape[1] == table.features.shape[1]
    if not same or (known is not None and F.cosine_similarity(made[-1], table.features[known], 0) < SAME):
        raise InputError(
            f"{checkpoint} on images of {size} pixels does not give the features of {table.path}: name the checkpoint "
            "and the --size that predict had."
        )
    return made[: len(files)]
