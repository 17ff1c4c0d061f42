"""Where a run writes: a directory of its own, `metrics.csv`, and W&B that never blocks."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from simmim_pl import durable
from simmim_pl.records import InputError

WANDB_TIMEOUT = 30.0  # seconds to wait for an answer before a run goes on offline


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


def loggers(runs: str, name: str, resumed: str | None = None) -> list[Logger]:
    """CSV and W&B loggers of a run directory, a new one unless a run is resumed.

    Only rank zero makes it; the others learn it from the trainer.
    """
    run_id = resumed or time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]
    folder = Path(runs, name, run_id)
    csv = CSVLogger(save_dir=runs, name=name, version=run_id)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return [csv, WandbLogger(save_dir=folder)]
    try:
        folder.mkdir(parents=True, exist_ok=resumed is not None)
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({error.strerror}): choose another folder with --runs.") from error
    rank_zero_info(f"Run directory: {folder}")
    # While the folder is still empty, or else it deletes the history that is there: of a run that goes on it is put
    # back, until the callback Checkpoint has brought it to the checkpoint's step.
    history = folder / "metrics.csv"
    before = history.read_bytes() if history.is_file() else None
    _ = csv.experiment
    if before is not None:
        durable.write(history, lambda file: file.write(before))
    return [csv, WandbLogger(save_dir=folder, experiment=start_wandb(folder, name, run_id))]


def start_wandb(folder: Path, name: str, run_id: str) -> wandb.Run:
    """Start the W&B run: offline without a key, and offline too when the server does not answer."""
    mode: Any = os.environ.get("WANDB_MODE") or "online"
    project = os.environ.get("WANDB_PROJECT") or "simmim_pl"
    try:
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
    except wandb.Error as error:
        raise InputError(f"{error} Mend the W&B key in .env or the environment, or set WANDB_MODE=offline.") from error
    later = f"To upload this run later: wandb sync {folder}/wandb/offline-run-*"

    def start(mode: Any) -> wandb.Run:
        settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, login_timeout=WANDB_TIMEOUT, silent=mode != "online")
        return wandb.init(
            dir=folder,
            project=project,
            name=f"{name}/{run_id}",
            group=name,
            id=run_id,
            resume="allow",
            mode=mode,
            settings=settings,
        )

    if mode == "offline":
        rank_zero_info(f"W&B is offline. {later}")
    try:
        return start(mode)
    except wandb.Error as error:
        wandb.teardown()
        reason = str(error).strip().splitlines()[0]
        rank_zero_warn(f"W&B cannot be reached, so the run goes on offline ({reason}). {later}")
        return start("offline")
