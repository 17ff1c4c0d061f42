"""Download one archive from the first of several mirrors that delivers it whole, and install what it holds."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.contracts import InputError
from simmim_pl.runtime import atomic

CHUNK = 1 << 16  # bytes read at a time


def data_folder(root: str | None) -> Path:
    """The folder of the data: as given, else from the environment, else ``data``."""
    return Path(root or os.environ.get("SIMMIM_DATA_DIR") or "data").expanduser()


def provide(
    archive: Path,
    md5: str,
    mirrors: list[str],
    timeout: float,
    install: Callable[[Path], None],
    whole: Callable[[], bool],
    space: str,
) -> None:
    """Make what an archive holds be there; touches neither network nor disk when it is.

    Work is done in a scratch folder and moved into place once checked, so nodes that share the folder never read each
    other's half-written files.

    - ``install``: unpacks the archive in the scratch folder that it is given, and moves the files to their places.
    - ``whole``: whether everything is in its place.
    - ``space``: that it takes, for the user.

    Raises:
        InputError: no mirror delivered, or the folder cannot be written.
    """
    if whole():
        return
    folder = archive.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(".part", f"{archive.name}.", folder, ignore_cleanup_errors=True) as scratch:
            download(archive, md5, mirrors, Path(scratch), timeout)
            install(Path(scratch))
    except (OSError, InputError) as error:
        if whole():  # another node was faster, and has swept our scratch folder
            return
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}) and {archive.name} has to go there: "
            f"make it a writable folder with {space} to spare, or set SIMMIM_DATA_DIR to another."
        ) from error
    for leftover in folder.glob(f"{archive.name}*.part"):  # of runs that were killed
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def download(archive: Path, md5: str, mirrors: list[str], scratch: Path, timeout: float) -> None:
    """Put ``archive`` in its place from the first mirror that delivers it, unless it is there and whole.

    - ``scratch``: a folder on the same disk; the file is moved out of it once its md5 is right.
    - ``timeout``: seconds without a byte after which a mirror is given up.

    Raises:
        InputError: no mirror delivered; the sentence gives the reason of each.
        OSError: the disk cannot be written.
    """
    part, failures = scratch / archive.name, []
    if archive.exists():
        if check_integrity(archive, md5):
            return
        archive.unlink(missing_ok=True)
        failures.append(f"the file found there had another md5 than {md5} and was removed")
    for url in mirrors:
        try:
            fetch(url, part, timeout)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: not an address
            if atomic.full(error):
                raise
            failures.append(f"{url}: {reason(error, timeout)}")
            continue
        if check_integrity(part, md5):
            os.replace(part, archive)
            return
        failures.append(f"{url}: sent a file with another md5 than {md5}")
    raise InputError(
        f"{archive.name} is wanted in {archive.parent.resolve()} and could not be downloaded "
        f"({'; '.join(failures) or 'no mirrors given'}): put the file there by hand, or use an image "
        "folder, --data configs/data/folder.yaml, or the procedural set, --data configs/data/shapes.yaml."
    )


def fetch(url: str, part: Path, timeout: float) -> None:
    """Download ``url`` to ``part``, from its first byte, with a progress bar.

    Raises:
        OSError, HTTPException: the mirror cannot be reached, is silent for ``timeout`` s, or cuts off.
        ValueError: ``url`` is not an address.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "simmim_pl"})
    with urllib.request.urlopen(request, timeout=timeout) as response, open(part, "wb") as file:
        total = int(response.headers.get("Content-Length", 0))
        with tqdm(desc=part.name, total=total or None, unit="B", unit_scale=True) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:  # urllib takes an early end of the stream for the end of the file
        raise ConnectionError(f"cut off after {part.stat().st_size} of {total} bytes")


def reason(error: Exception, timeout: float) -> str:
    """Why a mirror failed, in a few words."""
    cause = error.reason if type(error) is URLError else error  # what happened while connecting comes wrapped
    if isinstance(cause, TimeoutError):
        return f"no byte for {timeout:g} s"
    return str(cause) or type(cause).__name__
