"""Download an archive from the first mirror that delivers it with the right checksum, and extract it."""

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

CHUNK_BYTES = 1 << 16  # read from the network at a time


def data_folder(root: str | None) -> Path:
    """The data folder: ``root`` if given, else the environment's SIMMIM_DATA_DIR, else ``data``."""
    return Path(root or os.environ.get("SIMMIM_DATA_DIR") or "data").expanduser()


def ensure_extracted(
    archive: Path,
    md5: str,
    mirrors: list[str],
    timeout: float,
    extract: Callable[[Path], None],
    is_complete: Callable[[], bool],
    space: str,
) -> None:
    """Download and extract an archive unless its files are there already.

    Files are extracted in a scratch folder and moved into place once complete. So nodes that share the folder never see
    partly written files.

    Args:
        archive: path of the archive.
        md5: its MD5 checksum, in hex.
        mirrors: URLs, tried in order.
        timeout: seconds without a byte after which a mirror is given up.
        extract: extracts the archive in the scratch folder that it is given, and moves the files into place.
        is_complete: whether all extracted files are in place.
        space: disk space needed, for the error, such as ``600 MB``.

    Raises:
        InputError: no mirror delivered, or the folder cannot be written.
    """
    if is_complete():
        return
    folder = archive.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(".part", f"{archive.name}.", folder, ignore_cleanup_errors=True) as scratch:
            download(archive, md5, mirrors, Path(scratch), timeout)
            extract(Path(scratch))
    except (OSError, InputError) as error:
        if is_complete():  # another node was faster and removed this scratch folder
            return
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}), and {archive.name} is stored there: make it a "
            f"writable folder with {space} free, or set SIMMIM_DATA_DIR to another."
        ) from error
    for leftover in folder.glob(f"{archive.name}*.part"):  # scratch folders of killed runs
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def download(archive: Path, md5: str, mirrors: list[str], scratch: Path, timeout: float) -> None:
    """Download ``archive`` from the first mirror that delivers it, unless it is there with the right checksum.

    Args:
        archive: path of the archive.
        md5: its MD5 checksum, in hex.
        mirrors: URLs, tried in order.
        scratch: folder on the same disk; the file is moved out of it once its checksum is right.
        timeout: seconds without a byte after which a mirror is given up.

    Raises:
        InputError: no mirror delivered; the sentence gives the reason for each.
        OSError: the disk is full.
    """
    part, failures = scratch / archive.name, []
    if archive.exists():
        if check_integrity(archive, md5):
            return
        archive.unlink(missing_ok=True)
        failures.append(f"the file found there did not have the md5 {md5} and was removed")
    for url in mirrors:
        try:
            fetch(url, part, timeout)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
            if atomic.is_disk_full(error):
                raise
            failures.append(f"{url}: {describe_error(error, timeout)}")
            continue
        if check_integrity(part, md5):
            os.replace(part, archive)
            return
        failures.append(f"{url}: sent a file whose md5 is not {md5}")
    raise InputError(
        f"{archive.name} is required in {archive.parent.resolve()} and could not be downloaded "
        f"({'; '.join(failures) or 'no mirrors given'}): put the file there by hand, or use an image "
        "folder, --data configs/data/folder.yaml, or the procedural set, --data configs/data/shapes.yaml."
    )


def fetch(url: str, part: Path, timeout: float) -> None:
    """Download ``url`` to the file ``part``, with a progress bar.

    Raises:
        OSError, HTTPException: the mirror cannot be reached, sends nothing for ``timeout`` seconds, or breaks off.
        ValueError: ``url`` is not a URL.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "simmim_pl"})
    with urllib.request.urlopen(request, timeout=timeout) as response, open(part, "wb") as file:
        total = int(response.headers.get("Content-Length", 0))
        with tqdm(desc=part.name, total=total or None, unit="B", unit_scale=True) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:  # urllib does not report a stream that ends early
        raise ConnectionError(f"cut off after {part.stat().st_size} of {total} bytes")


def describe_error(error: Exception, timeout: float) -> str:
    """Why a mirror failed, in a few words."""
    cause = error.reason if type(error) is URLError else error  # urllib wraps errors while connecting
    if isinstance(cause, TimeoutError):
        return f"no data for {timeout:g} s"
    return str(cause) or type(cause).__name__
