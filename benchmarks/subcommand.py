"""Run the package's command line from a benchmark, and find what it wrote."""

import hashlib
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from simmim_pl.runtime.fingerprint import fingerprint


def call(*args: str) -> None:
    """Run ``python -m simmim_pl``. Raises RuntimeError with the last line of its errors if it fails."""
    command, environment = [sys.executable, "-m", "simmim_pl", *args], {**os.environ, "WANDB_MODE": "disabled"}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args[:2])} failed: {''.join(done.stderr.strip().splitlines()[-1:])}")


def parse(parser: ArgumentParser, args: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """A benchmark's own options, and those after ``--``, which it passes on."""
    words = list(sys.argv[1:] if args is None else args)
    own = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:own]), words[own + 1 :]


def identity(*parts: object) -> str:
    """Equal for equal parts and equal code of the package: under it a result is kept."""
    return hashlib.sha256(f"{fingerprint()} {json.dumps(parts)}".encode()).hexdigest()[:12]


def newest(folder: Path, pattern: str) -> Path:
    """The file of this pattern that was written last."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
