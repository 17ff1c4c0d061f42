"""Files that are whole or not there: written beside their place, brought to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from simmim_pl.intact import sealed
from simmim_pl.records import InputError

Content = Callable[[IO[bytes]], Any]  # writes a file, given the open file
WRITER = ("PytorchStreamWriter", "unexpected pos", "write failed")


class DurableIO(TorchCheckpointIO):
    """Lightning's way to save a checkpoint, made to survive a kill, a full disk and a loss of power.

    Lightning writes a temporary file too, but does not wait until it is on the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            write(Path(path), lambda file: torch.save(sealed(checkpoint), file))
        except (OSError, RuntimeError) as error:
            # torch's writer turns a full disk into a RuntimeError; a device's own are not mended by room on the disk.
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in WRITER):
                raise
            reason = " ".join(str(error).split())
            kept = f"The last good one is kept: --ckpt_path {path}" if Path(path).exists() else "There is none before"
            raise InputError(f"A checkpoint cannot be written ({reason}): make room on the disk. {kept}.") from error


def write(path: Path, content: Content) -> None:
    """Replace a file by what ``content`` writes; when it fails, or is killed, the file stays what it was.

    Every attempt has a file of its own, so two at a time cannot mix. One that succeeds sweeps what others left, those
    that were killed; one that is still at work then fails.

    Raises:
        OSError: the disk is full, or cannot be written. Nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with half.open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise
    for leftover in path.parent.glob(f"{escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot: then the rename is on the disk a little later
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
