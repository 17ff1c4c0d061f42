"""``python -m simmim_pl.report RUN [RUN …]``: the report of one run, or of several side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simmim_pl.records import InputError
from simmim_pl.report.page import write


def main(args: list[str] | None = None) -> None:
    """Write the page; what the user can mend ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m simmim_pl.report",
        description="Write the report of a run, or of several side by side, as one HTML file that needs no network.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, runs/NAME/ID")
    parser.add_argument(
        "--output", type=Path, help="file to write; by default report.html in the run, of several in this folder"
    )
    options = parser.parse_args(args)
    path = options.output or (Path("report.html") if len(options.runs) > 1 else options.runs[0] / "report.html")
    try:
        write(options.runs, path)
    except (InputError, OSError) as error:
        reason = error if isinstance(error, InputError) else f"{path} cannot be written ({error.strerror})."
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(2)
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
