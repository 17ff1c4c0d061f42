"""Atomic writes: temporary file, fsync, rename.

A write that fails is a :class:`WriteError`, whoever tried it; the command line makes one sentence of it.
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
from simmim_pl.runtime.integrity import sealed
from simmim_pl.runtime.storable import storable_checkpoint

Content = Callable[[IO[bytes]], Any]  # writes a file, given the open file

# Why a disk takes no more, and what the user can do. A limit on the size of files (ulimit -f) looks like a full disk.
FULL = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk, or have the quota raised",
    errno.EFBIG: "make room on the disk, or raise the limit on a file's size (ulimit -f)",
}
ADVICE = FULL | {errno.EROFS: "make the disk writable, or write to another", errno.EIO: "mend the disk, or use another"}
# What torch's writer says when the disk is full; where a file of Python's was written, the OSError lies behind it.
WRITER = ("PytorchStreamWriter", "unexpected pos", "write failed")


class WriteError(OSError):
    """A file could not be written: number and name of the reason, and the file's name."""


class DurableIO(TorchCheckpointIO):
    """Lightning's way to save a checkpoint, made to survive a kill, a full disk and a loss of power.

    Lightning writes a temporary file too, but does not wait until it is on the disk. What could not be read back is
    converted or refused, see :func:`simmim_pl.runtime.storable.storable`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        readable = sealed(storable_checkpoint(checkpoint))
        if "://" in str(path):  # a bucket, which keeps a file as a whole or not at all
            super().save_checkpoint(readable, path, storage_options)
            return
        write(Path(path), lambda file: torch.save(readable, file))


def write(path: Path, content: Content) -> None:
    """Replace a file by what ``content`` writes; when it fails, or is killed, the file stays what it was.

    Every attempt has a file of its own, so two at a time cannot mix. One that succeeds sweeps what others left, those
    that were killed; one that is still at work then fails.

    Raises:
        WriteError: the disk is full, or cannot be written. Nothing is left of the attempt.
    """
    half = path.with_name(f"{path.name}.{uuid4().hex}.part")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with half.open("wb") as file:
                content(file)
                file.flush()
                sync(file.fileno())
            half.replace(path)
        except BaseException:
            with suppress(OSError):
                half.unlink(missing_ok=True)
            raise
    for leftover in path.parent.glob(f"{escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot: then the rename is on the disk a little later
        folder = os.open(path.parent, os.O_RDONLY)
        sync(folder)
        os.close(folder)


def sync(file: int) -> None:
    """Wait until what was written to a file is on the disk; macOS leaves it in the drive's cache if not told twice."""
    os.fsync(file)
    with suppress(ImportError, OSError):  # Windows has no such module; some file systems cannot
        import fcntl

        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what fails to be written in here say which file it was: Python itself names only files that are opened.

    Raises:
        WriteError: in place of any OSError, and of what torch's writer makes of one.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = next(reasons(error), None)
        if reason is None or isinstance(error, WriteError) or not (isinstance(error, OSError) or by_torch(error)):
            raise
        raise WriteError(reason.errno, reason.strerror or str(reason), str(path)) from error


def flush_output() -> None:
    """Have what is printed written now: at its end Python would only give exit code 120.

    Raises:
        WriteError: standard output is a file on a full disk, or closed.
    """
    with naming(Path("standard output")):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or else it is tried again
            raise


@contextmanager
def going_on(checkpoint: Callable[[], Any]) -> Iterator[None]:
    """Have what fails to be written in here say also from which checkpoint the run goes on, if there is one then.

    Raises:
        InputError: in place of an error that a disk explains.
    """
    try:
        yield
    except Exception as error:
        sentence = None if isinstance(error, InputError) else explain(error)
        if sentence is None:
            raise
        kept = checkpoint()
        goes_on = f" The last good checkpoint is kept: --ckpt_path {kept}." if kept else ""
        raise InputError(f"{sentence}{goes_on}") from error


def full(error: BaseException) -> bool:
    """Whether an error is a full disk's, or came of one. A run does not go on without what it then did not write."""
    return any(reason.errno in FULL for reason in reasons(error))


def explain(error: BaseException) -> str | None:
    """One sentence when a file could not be written, or something came of that; nothing for any other error."""
    for reason in reasons(error):
        if isinstance(reason, WriteError) or reason.errno in ADVICE:
            file, why = reason.filename2 or reason.filename or "A file", str(reason.strerror or reason)
            advice = ADVICE.get(reason.errno or 0, "make it a place that can be written, or write to another")
            return f"{file} cannot be written ({why[:1].lower()}{why[1:]}): {advice}."
    return None


def reasons(error: BaseException) -> Iterator[OSError]:
    """The OSErrors among an error and those that it came of, and a full disk where torch's writer says so only."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError):
            yield each
        each = each.__cause__ or each.__context__
    if by_torch(error):
        yield OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def by_torch(error: BaseException) -> bool:
    """Whether torch's writer says that it cannot write; what a device says is not mended by room on the disk."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WRITER)
