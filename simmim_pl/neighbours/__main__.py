"""``python -m simmim_pl.neighbours EMBEDDINGS``: neighbours, near-duplicates and outliers, as one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simmim_pl.neighbours.show import NEIGHBOURS, PAIRS, QUERIES, Options, show
from simmim_pl.runtime.one_line_errors import one_line_errors

DESCRIPTION = """Show the nearest neighbours of images, and the near-duplicates and outliers of a data set, by the
cosine similarity of the features that predict wrote: one HTML file that needs no network, and the near-duplicates as
CSV."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. User errors print one sentence and exit with code 2."""
    options = parse(args)
    with one_line_errors():
        show(options)


def parse(args: Sequence[str] | None) -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m simmim_pl.neighbours", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="embeddings.parquet that predict wrote")
    parser.add_argument(
        "--query",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="images whose neighbours are shown: number of a row, path as in the table, or a new file, which needs "
        f"--checkpoint; by default {QUERIES} rows, evenly spaced",
    )
    parser.add_argument("--k", type=int, help=f"number of neighbours [{NEIGHBOURS}, or all others of a smaller table]")
    parser.add_argument(
        "--threshold",
        type=float,
        help="smallest similarity of near-duplicates, at most 1; by default the --pairs most similar pairs",
    )
    parser.add_argument("--pairs", type=int, help=f"number of pairs without --threshold [{PAIRS}]")
    parser.add_argument("--checkpoint", type=Path, help="that made the table: embeds queries that are not in it")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of these images; by default as in the run")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="class outside simmim_pl that may be imported"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="CONFIG",
        help="a run's config.yaml or one of configs/data: where images without a path come from; by default the "
        "config.yaml beside the table",
    )
    parser.add_argument("--output", type=Path, help="file to write [neighbours.html beside the table]")
    return Options(**vars(parser.parse_args(args)))


if __name__ == "__main__":
    main()
