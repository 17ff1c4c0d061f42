"""Print a message once per job, although every process (rank) of the job wants to print it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

JOB_VARIABLE = "SIMMIM_PL_JOB"  # environment variable with the id of the job
FIRST_RESERVED_STEP = 4294967290  # SLURM steps from here on are not started by srun: batch script, interactive shell
MARKER_LIFETIME = 300.0  # seconds after which another command of the same job may print the message again
MARKER = "simmim_pl-"  # prefix of the empty files that mark printed messages


@contextmanager
def mark_job() -> Iterator[None]:
    """In this context, child processes (ranks that Lightning starts) inherit one job id."""
    own = JOB_VARIABLE not in os.environ
    if own:
        os.environ[JOB_VARIABLE] = launcher_job() or uuid.uuid4().hex
    try:
        yield
    finally:
        if own:
            del os.environ[JOB_VARIABLE]


def launcher_job() -> str | None:
    """Job id if torchrun or SLURM started this process as one of several, else ``None``."""
    if error_file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # JOB/attempt_0/RANK/error.json
        return str(Path(error_file).parents[1])
    step = os.environ.get("SLURM_STEP_ID", "")
    if os.environ.get("SLURM_NTASKS", "1") == "1" or not step.isdecimal() or int(step) >= FIRST_RESERVED_STEP:
        return None
    return "-".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))


def is_first(sentence: str) -> bool:
    """Whether this is the first process of the job, on this machine, to print a message.

    The first process creates an empty marker file in the temporary folder; the others find it.
    """
    if "LOCAL_RANK" not in os.environ and launcher_job() is None:
        return True
    remove_old_markers()
    digest = hashlib.sha256(f"{os.environ.get(JOB_VARIABLE)}|{sentence}".encode()).hexdigest()
    try:
        os.close(os.open(Path(tempfile.gettempdir(), f"{MARKER}{digest[:32]}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # better to print twice than never
        return True
    return True


def remove_old_markers() -> None:
    """Remove marker files older than ``MARKER_LIFETIME``."""
    for path in Path(tempfile.gettempdir()).glob(MARKER + "[0-9a-f]" * 32):
        with suppress(OSError):  # another user's, or removed just now
            if path.stat().st_size == 0 and time.time() - path.stat().st_mtime > MARKER_LIFETIME:
                path.unlink()


def describe_warning(warning: Warning) -> str:
    """One sentence for a warning that a warnings filter turned into an error."""
    reason = " ".join(str(warning).split()).rstrip(".")
    return f"A warning was turned into an error ({reason}): start without PYTHONWARNINGS=error and without -W error."
