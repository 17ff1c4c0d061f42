"""Atomic writes: temporary file, fsync, rename.

A failed write raises :class:`WriteError`; the command line turns it into a one-line error (:func:`explain`).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from simmim_pl.contracts import InputError
from simmim_pl.runtime.integrity import with_digests
from simmim_pl.runtime.storable import storable_checkpoint

Writer = Callable[[IO[bytes]], Any]  # writes the content of a file, given the open file

# Error numbers of a full disk, with what the user can do. A file size limit (ulimit -f) counts as a full disk.
DISK_FULL_ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space, or have the quota raised",
    errno.EFBIG: "free disk space, or raise the limit on a file's size (ulimit -f)",
}
WRITE_ADVICE = DISK_FULL_ADVICE | {
    errno.EROFS: "make the disk writable, or use another",
    errno.EIO: "repair the disk, or use another",
}
# Phrases in the RuntimeErrors that torch.save raises when the disk is full; not all of them have an OSError as cause.
TORCH_WRITE_ERRORS = ("PytorchStreamWriter", "unexpected pos", "write failed")


class WriteError(OSError):
    """A file could not be written. Carries errno, the reason and the file name."""


class DurableIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin, made to survive a kill, a full disk and a power failure.

    Lightning also writes a temporary file first, but does not fsync it. Values that ``torch.load`` could not read back
    are converted or refused, see :func:`simmim_pl.runtime.storable.storable`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        stored = with_digests(storable_checkpoint(checkpoint))
        if "://" in str(path):  # object storage, whose uploads are atomic
            super().save_checkpoint(stored, path, storage_options)
            return
        write(Path(path), lambda file: torch.save(stored, file))


def write(path: Path, content: Writer) -> None:
    """Replace a file atomically: on failure, or when the process is killed, the old file stays as it was.

    Args:
        path: the file. Its folder is created if missing.
        content: writes the new content to the open temporary file.

    Raises:
        WriteError: the disk is full or cannot be written. No temporary file is left.
    """
    with replacing(path) as file:
        content(file)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file to write, which replaces a file as in :func:`write` when the context ends without an error.

    Each call writes its own temporary file, so concurrent writes cannot mix. A successful write removes the temporary
    files of writes that were killed; a write still in progress then fails.
    """
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.part")
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    for leftover in path.parent.glob(f"{escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system can fsync a folder: the rename then reaches the disk a little later
        folder = os.open(path.parent, os.O_RDONLY)
        fsync(folder)
        os.close(folder)


def fsync(file: int) -> None:
    """Wait until a file's content is on the disk. macOS needs F_FULLFSYNC in addition, to empty the drive's cache.

    Args:
        file: file descriptor.
    """
    os.fsync(file)
    with suppress(ImportError, OSError):  # Windows has no fcntl; not every file system supports F_FULLFSYNC
        import fcntl

        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Add the file name to write errors raised in this context: Python names the file only when opening it fails.

    Raises:
        WriteError: instead of any OSError, and of the RuntimeError that torch.save raises on a failed write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = next(os_errors(error), None)
        if (
            reason is None
            or isinstance(error, WriteError)
            or not (isinstance(error, OSError) or is_torch_write_error(error))
        ):
            raise
        raise WriteError(reason.errno, reason.strerror or str(reason), str(path)) from error


def flush_stdout() -> None:
    """Flush standard output now: a failing flush at interpreter exit would only set exit code 120.

    Raises:
        WriteError: standard output is closed, or is a file on a full disk.
    """
    with name_file_in_errors(Path("standard output")):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes again at exit
            raise


@contextmanager
def add_resume_advice(checkpoint: Callable[[], Any]) -> Iterator[None]:
    """Add "resume from this checkpoint" to write errors raised in this context.

    Args:
        checkpoint: returns the path of the newest checkpoint, or something false. Called only after an error.

    Raises:
        InputError: instead of an error that :func:`explain` explains.
    """
    try:
        yield
    except Exception as error:
        sentence = None if isinstance(error, InputError) else explain(error)
        if sentence is None:
            raise
        kept = checkpoint()
        resume = f" The last good checkpoint is kept: --ckpt_path {kept}." if kept else ""
        raise InputError(f"{sentence}{resume}") from error


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk caused an error. A run must not continue as if the failed write had succeeded."""
    return any(reason.errno in DISK_FULL_ADVICE for reason in os_errors(error))


def explain(error: BaseException) -> str | None:
    """One sentence for the user if a failed write caused this error, else ``None``."""
    for reason in os_errors(error):
        if isinstance(reason, WriteError) or reason.errno in WRITE_ADVICE:
            file, why = reason.filename2 or reason.filename or "A file", str(reason.strerror or reason)
            advice = WRITE_ADVICE.get(reason.errno or 0, "make it writable, or write to another place")
            return f"{file} cannot be written ({why[:1].lower()}{why[1:]}): {advice}."
    return None


def os_errors(error: BaseException) -> Iterator[OSError]:
    """The OSErrors in an error's chain of causes; ENOSPC last if torch.save failed to write, see TORCH_WRITE_ERRORS."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError):
            yield each
        each = each.__cause__ or each.__context__
    if is_torch_write_error(error):
        yield OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_torch_write_error(error: BaseException) -> bool:
    """Whether this is torch.save failing to write. Other RuntimeErrors, such as CUDA's, have nothing to do with it."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_WRITE_ERRORS)
