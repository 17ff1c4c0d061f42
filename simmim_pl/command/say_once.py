"""A sentence is said once, however many processes of a job have the same to say."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

JOB = "SIMMIM_PL_JOB"


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
    if os.environ.get("SLURM_NTASKS", "1") == "1":
        return None
    return "-".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))


def first(sentence: str) -> bool:
    """Whether no other process of this job, on this machine, has said the same: who says it leaves an empty file."""
    if "LOCAL_RANK" not in os.environ and launched() is None:
        return True
    digest = hashlib.sha256(f"{os.environ.get(JOB)}|{sentence}".encode()).hexdigest()
    try:
        os.close(os.open(Path(tempfile.gettempdir(), f"simmim_pl-{digest[:32]}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # rather twice than never
        return True
    return True


def of_warning(warning: Warning) -> str:
    """What is said of a warning that was made an error."""
    return f"A warning was made an error ({warning}): start without PYTHONWARNINGS=error and without -W error."
