"""A sentence is said once, however many processes of a job have the same to say."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

JOB = "SIMMIM_PL_JOB"
STEPS = 4294967290  # in SLURM steps from here on are no srun's: a batch script, an interactive shell
OLD = 300.0  # seconds after which a sentence is said again: by another command of the same job
MARKER = "simmim_pl-"


@contextmanager
def job() -> Iterator[None]:
    """Within, the processes that Lightning starts from this one know that they belong together."""
    own = JOB not in os.environ
    if own:
        os.environ[JOB] = launched() or uuid.uuid4().hex
    try:
        yield
    finally:
        if own:
            del os.environ[JOB]


def launched() -> str | None:
    """The name of the job by which torchrun or SLURM has started this process beside others."""
    if error_file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # JOB/attempt_0/RANK/error.json
        return str(Path(error_file).parents[1])
    step = os.environ.get("SLURM_STEP_ID", "")
    if os.environ.get("SLURM_NTASKS", "1") == "1" or not step.isdecimal() or int(step) >= STEPS:
        return None
    return "-".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))


def first(sentence: str) -> bool:
    """Whether no other process of this job, on this machine, has said the same: who says it leaves an empty file."""
    if "LOCAL_RANK" not in os.environ and launched() is None:
        return True
    sweep()
    digest = hashlib.sha256(f"{os.environ.get(JOB)}|{sentence}".encode()).hexdigest()
    try:
        os.close(os.open(Path(tempfile.gettempdir(), f"{MARKER}{digest[:32]}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # rather twice than never
        return True
    return True


def sweep() -> None:
    """Remove the files that are too old to keep anyone silent."""
    for path in Path(tempfile.gettempdir()).glob(MARKER + "[0-9a-f]" * 32):
        with suppress(OSError):  # another's, or gone just now
            if path.stat().st_size == 0 and time.time() - path.stat().st_mtime > OLD:
                path.unlink()


def of_warning(warning: Warning) -> str:
    """What is said of a warning that was made an error, on one line."""
    reason = " ".join(str(warning).split()).rstrip(".")
    return f"A warning was made an error ({reason}): start without PYTHONWARNINGS=error and without -W error."
