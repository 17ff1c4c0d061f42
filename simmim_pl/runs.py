"""Which run this is: one that goes on has its own directory again, one of a W&B sweep the id that the agent gave it."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.records import InputError


def newest(runs: str, name: str, subcommand: str) -> str | None:
    """The last checkpoint of the newest run of a name that has one; without any, ``fit`` starts at its beginning."""
    found = sorted(Path(runs, name).glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if found:
        return str(found[-1])
    if subcommand != "fit":
        raise InputError(f"There is no checkpoint in {Path(runs, name)}: name its path, or another run with --name.")
    rank_zero_info(f"There is no checkpoint in {Path(runs, name)} yet: the run starts at its beginning.")
    return None


def directory(ckpt_path: str | None, runs: str, name: str) -> str | None:
    """The run directory to which a checkpoint belongs, if it is one of this name: the run then goes on in there."""
    if not ckpt_path:
        return None
    folder = Path(ckpt_path).resolve().parent.parent
    return folder.name if folder.parent == Path(runs, name).resolve() else None


def swept() -> str | None:
    """The id of the run for which an agent of a W&B sweep has started this process, if one has."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
