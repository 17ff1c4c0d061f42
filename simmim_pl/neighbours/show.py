"""Read a table, search it, and write the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.protocols.knn import nearest
from simmim_pl.neighbours.page import Page, similarities
from simmim_pl.neighbours.pairs_file import write_pairs
from simmim_pl.neighbours.pictures import Pictures
from simmim_pl.neighbours.queries import embed, rows_and_files
from simmim_pl.neighbours.search import nearest_others, similar_pairs
from simmim_pl.neighbours.table import Table, read_table
from simmim_pl.runtime import atomic

QUERIES = 8  # rows of the table, if no query is named
PAIRS = 100
NEIGHBOURS = 10


@dataclass(frozen=True)
class Options:
    """The command line's arguments.

    Attributes:
        embeddings: the Parquet file that ``predict`` wrote.
        query: numbers of rows, paths of the table, or new files.
        k: number of neighbours; by default 10, or all others of a smaller table.
        threshold: smallest similarity of near-duplicates; ``None`` for the most similar pairs.
        pairs: number of these; by default 100.
        checkpoint: of the encoder, to embed new files.
        size: side of these images in pixels.
        allow: classes outside this package that may be imported for the encoder.
        data: config of the data set, for images without a path.
        output: the page; by default beside the table.
    """

    embeddings: Path
    query: Sequence[str] = ()
    k: int | None = None
    threshold: float | None = None
    pairs: int | None = None
    checkpoint: Path | None = None
    size: int | None = None
    allow: Sequence[str] = ()
    data: Path | None = None
    output: Path | None = None


def show(options: Options) -> None:
    """Write the page and the near-duplicates, and print where.

    Raises:
        InputError: table, queries, checkpoint or data do not serve, or an option would do nothing.
        OSError: a file cannot be written.
    """
    output = options.output or options.embeddings.with_name("neighbours.html")
    if output.resolve() == options.embeddings.resolve():
        raise InputError(f"--output {output} would replace the table: name another file.")
    output.parent.mkdir(parents=True, exist_ok=True)
    table = read_table(options.embeddings, output.parent)
    queries = rows_and_files(options.query, table) or evenly(len(table))
    files = [query for query in queries if isinstance(query, str)]
    for sentence in refusals(options, table, files):
        raise InputError(sentence)
    features, rows = table.features, torch.arange(len(table))
    made = embed(files, options.checkpoint, options.size, options.allow, table) if files else features[:0]
    k = options.k or min(NEIGHBOURS, len(table) - 1)
    near = nearest_others(features, k)
    new = zip(*nearest(features, rows, made, k), strict=True)
    of_queries = [(near.similarity[q], near.row[q]) if isinstance(q, int) else next(new) for q in queries]
    pairs = similar_pairs(near, options.threshold, options.pairs or PAIRS)
    page = Page(table, Pictures(table, options.data))
    sections = [
        page.queries(queries, of_queries),
        similarities(near.similarity[:, 0]),
        *page.duplicates(pairs, options.threshold),
        page.outliers(near),
    ]
    text = page.render(sections).encode()
    atomic.write(output, lambda file: file.write(text))
    listed = output.with_name(f"{output.stem}_duplicates.csv")
    write_pairs(listed, table, pairs)
    print(f"Written to {output} and {listed}")


def refusals(options: Options, table: Table, files: Sequence[str]) -> Iterator[str]:
    """A sentence for each option that cannot be, or would do nothing."""
    for name in ("k", "pairs", "size"):
        if (value := getattr(options, name)) is not None and value < 1:
            yield f"--{name} has to be 1 or more, and is {value}."
    if len(table) < 2:
        yield f"{options.embeddings} has one row: there is nothing to compare it with."
    if options.k is not None and options.k >= len(table):
        yield f"--k {options.k} is more than the {len(table) - 1} other rows of {table.path}: lower it."
    if options.threshold is not None and not -1 <= options.threshold <= 1:
        yield f"--threshold is a cosine similarity, from -1 to 1, and is {options.threshold:g}."
    if options.threshold is not None and options.pairs is not None:
        yield "--pairs is the number of pairs without --threshold: remove one of the two."
    if not files and (options.checkpoint or options.size or options.allow):
        yield "--checkpoint, --size and --allow are for queries outside the table, and there are none: remove them."
    if options.data is not None and "path" in table.known.column_names:
        yield f"{table.path} has the paths of its images, which are shown: remove --data."


def evenly(rows: int) -> list[int | str]:
    """A few rows from all over the table.

    >>> evenly(9)
    [0, 1, 2, 3, 5, 6, 7, 8]
    """
    return list(dict.fromkeys(torch.linspace(0, rows - 1, QUERIES).round().int().tolist()))
