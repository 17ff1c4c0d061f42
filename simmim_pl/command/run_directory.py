"""Run directories ``RUNS/NAME/ID``: choose one for a run, and lock it for one process."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

LOCK = ".lock"  # lock file in a run directory; the system releases the lock when its process dies
PATIENCE = 10.0  # seconds to wait for the lock: DataLoader workers of a killed run hold it until they end


def require_valid_name(name: str) -> None:
    """Raise :class:`InputError` for a run name that is absolute, hidden or leads out of the folder of all runs."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or any(part.startswith(".") for part in parts):
        raise InputError(
            f"--name {name!r} is not a valid folder name within --runs: choose one that does not start with a dot or "
            "slash and does not contain '..'."
        )


@contextmanager
def readable_folder(folder: Path) -> Iterator[Path]:
    """Turn OSErrors in this context, such as missing permissions, into an :class:`InputError` about the folder."""
    try:
        yield folder
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}): choose another folder with --runs, or another --name."
        ) from error


def newest_checkpoint(runs: str, name: str, subcommand: str) -> str | None:
    """Path of the last checkpoint of the newest run of a name.

    Args:
        runs: folder of all runs.
        name: of the run.
        subcommand: ``fit`` may start without a checkpoint; others may not.

    Returns:
        The path, or ``None`` if there is none and ``fit`` starts from the beginning.

    Raises:
        InputError: there is no checkpoint, or the folder cannot be read.
    """
    with readable_folder(Path(runs, name)) as folder:
        found = sorted(folder.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if found:
        return str(found[-1])
    if subcommand != "fit":
        raise InputError(f"There is no checkpoint in {Path(runs, name)}: name its path, or another run with --name.")
    rank_zero_info(f"There is no checkpoint in {Path(runs, name)} yet: the run starts from the beginning.")
    return None


def run_id(ckpt_path: str | None, runs: str, name: str) -> str:
    """The id of a run, which names its directory.

    A resumed run keeps its id; a run of a W&B sweep has the id that the agent chose; any other gets a new one.

    Args:
        ckpt_path: checkpoint to resume from, or ``None``.
        runs: folder of all runs.
        name: of the run.
    """
    if ckpt_path:
        folder = Path(ckpt_path).resolve().parent.parent
        if folder.parent == Path(runs, name).resolve():
            return folder.name
    return sweep_run_id() or time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]


def sweep_run_id() -> str | None:
    """The run id if an agent of a W&B sweep started this process, else ``None``."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


class RunDirectory:
    """The directory of a run, ``RUNS/NAME/ID``, locked for one process at a time. Rank zero does the work.

    Args:
        folder: its path; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock: FileLock | None = None
        self.new = False  # whether claim() created it

    def exists(self) -> bool:
        """Whether the directory exists. May be called on any rank."""
        with readable_folder(self.folder):
            return self.folder.is_dir()

    @rank_zero_only
    def claim(self) -> None:
        """Create the directory if missing, and lock it. Does nothing if this object holds the lock already.

        Raises:
            InputError: another process holds the lock, or the directory cannot be created.
            OSError: the disk is full.
        """
        if self.lock is not None:
            return
        lock = FileLock(self.folder / LOCK, timeout=PATIENCE)
        self.new = not self.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire()
        except Timeout as error:
            raise InputError(
                f"Another process is using {self.folder}: wait for it, stop it, or start a new run, without "
                "--ckpt_path or with another --name."
            ) from error
        except OSError as error:
            if atomic.is_disk_full(error):
                raise
            reason = error.strerror
            raise InputError(f"Cannot write to {self.folder} ({reason}): choose another folder with --runs.") from error
        self.lock = lock

    @rank_zero_only
    def release(self) -> None:
        """Release the lock."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    @rank_zero_only
    def discard(self) -> None:
        """Release the lock, and delete the directory if it was created for this run, which could not start."""
        self.release()
        if self.new:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # not empty: it holds other runs
                self.folder.parent.rmdir()
                self.folder.parent.parent.rmdir()
