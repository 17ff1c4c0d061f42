"""A fingerprint of the code, which tells whether two results came from the same code."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch

import simmim_pl


@cache
def fingerprint() -> str:
    """Version of the package, 12 hex digits of SHA-256 over its source files, and version of torch."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        sha.update(path.read_bytes())
    return f"{simmim_pl.__version__}-{sha.hexdigest()[:12]} with torch {torch.__version__}"
