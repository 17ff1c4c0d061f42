"""``python -m simmim_pl.report RUN [RUN …]``: the report of one run, or of several side by side."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import IO

from simmim_pl.report.charts import png
from simmim_pl.report.figures import figures
from simmim_pl.report.observed import observed
from simmim_pl.report.page import write_report
from simmim_pl.runtime import atomic
from simmim_pl.runtime.one_line_errors import one_line_errors


def export(run: Path, folder: Path) -> None:
    """Write the charts of what a run observed, each as a separate file."""
    for name, figure in figures(observed(run)).items():
        atomic.write(folder / f"{name}.png", partial(put, png(figure)))


def put(picture: bytes, file: IO[bytes]) -> None:
    """Write a picture to an open file."""
    file.write(picture)


def main(args: list[str] | None = None) -> None:
    """Write the page. User errors print one line and exit with code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m simmim_pl.report",
        description="Write the report of one run, or a comparison of several, as one HTML file that needs no network.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, runs/NAME/ID")
    parser.add_argument(
        "--output", type=Path, help="file to write; default: report.html in the run, or in this folder for several runs"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="also write each chart of the first run there as a PNG file"
    )
    options = parser.parse_args(args)
    path = options.output or (Path("report.html") if len(options.runs) > 1 else options.runs[0] / "report.html")
    with one_line_errors():
        write_report(options.runs, path)
        if options.pictures:
            export(options.runs[0], options.pictures)
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
