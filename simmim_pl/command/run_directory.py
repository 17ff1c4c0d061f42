"""Run directories: which one a run has, and that it belongs to one process at a time."""

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

LOCK = ".lock"  # in a run directory, held while a process works there; the system releases that of a dead one
PATIENCE = 10.0  # seconds in which the data loading processes of a killed run end, which hold its lock too


def check_name(name: str) -> None:
    """Refuse a run's name that would lead out of the folder of all runs, or hide in it."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or any(part.startswith(".") for part in parts):
        raise InputError(
            f"--name {name!r} is no name of a folder within --runs: choose one that does not start with a dot or slash "
            "and has no '..' in it."
        )


@contextmanager
def looked_into(folder: Path) -> Iterator[Path]:
    """A folder, which need not exist; raises :class:`InputError` where the system does not let it be looked into."""
    try:
        yield folder
    except OSError as error:
        raise InputError(
            f"{folder} cannot be looked into ({error.strerror}): choose another folder with --runs, or another --name."
        ) from error


def newest(runs: str, name: str, subcommand: str) -> str | None:
    """The last checkpoint of the newest run of a name that has one; without any, ``fit`` starts at its beginning."""
    with looked_into(Path(runs, name)) as folder:
        found = sorted(folder.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if found:
        return str(found[-1])
    if subcommand != "fit":
        raise InputError(f"There is no checkpoint in {Path(runs, name)}: name its path, or another run with --name.")
    rank_zero_info(f"There is no checkpoint in {Path(runs, name)} yet: the run starts at its beginning.")
    return None


def run_id(ckpt_path: str | None, runs: str, name: str) -> str:
    """The name of a run's directory: of one that goes on its own again, of a sweep's what W&B's agent gave it."""
    if ckpt_path:
        folder = Path(ckpt_path).resolve().parent.parent
        if folder.parent == Path(runs, name).resolve():
            return folder.name
    return swept() or time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]


def swept() -> str | None:
    """The id of the run for which an agent of a W&B sweep has started this process, if one has."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


class RunDirectory:
    """The directory of a run, ``RUNS/NAME/ID``, which belongs to one process at a time; on rank zero only.

    Args:
        folder: its path; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock: FileLock | None = None
        self.new = False  # whether claiming has made it

    def exists(self) -> bool:
        """Whether it is there, on any rank."""
        with looked_into(self.folder):
            return self.folder.is_dir()

    @rank_zero_only
    def claim(self) -> None:
        """Make the directory where there is none, and keep other processes out of it. Again, it does nothing.

        Raises:
            InputError: another process works there, or the directory cannot be made.
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
                f"Another process is at work in {self.folder}: wait for it, stop it, or start a run of its own, "
                "without --ckpt_path or with another --name."
            ) from error
        except OSError as error:
            if atomic.full(error):
                raise
            reason = error.strerror
            raise InputError(f"Cannot write to {self.folder} ({reason}): choose another folder with --runs.") from error
        self.lock = lock

    @rank_zero_only
    def release(self) -> None:
        """Let other processes work there."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    @rank_zero_only
    def discard(self) -> None:
        """Leave nothing of a directory that was made for a run which could not begin."""
        self.release()
        if self.new:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # others' runs lie there
                self.folder.parent.rmdir()
                self.folder.parent.parent.rmdir()
