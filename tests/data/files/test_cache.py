"""The cache of decoded images, and what happens when files, disk or version change."""

import errno
import multiprocessing
import os
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import Folder
from simmim_pl.data.files import cache, decode
from simmim_pl.data.files.pixel_format import PixelFormat
from simmim_pl.runtime import atomic
from tests.forked import Program, environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of two classes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / f"images/train/class{i % 2}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records every decoded file."""
    files: list[str] = []
    real = decode.decode

    def counted(file: str, size: int) -> Image.Image:
        files.append(file)
        return real(file, size)

    monkeypatch.setattr(decode, "decode", counted)
    return files


def kept() -> list[Path]:
    return sorted(Path(os.environ["SIMMIM_DATA_DIR"], ".decoded").glob("*.uint8"))


def pixels(source: Folder) -> torch.Tensor:
    images = source.load("train")
    return images.read(torch.arange(len(images)))


def test_a_second_run_reads_the_cache(folder: Path, opened: list[str]) -> None:
    source = Folder(str(folder), size=16)
    source.prepare()
    assert opened == []
    first, second = pixels(source), pixels(Folder(str(folder), size=16))
    assert len(opened) == 12
    assert torch.equal(first, second)
    assert torch.equal(first, pixels(Folder(str(folder), size=16, cache=False)))
    assert len(opened) == 24
    assert len(kept()) == 1


def test_the_cache_is_memory_mapped_and_safe_from_writes_to_the_tensor(folder: Path) -> None:
    images = Folder(str(folder), size=16).load("train").images
    before = images.clone()
    images.zero_()
    assert torch.equal(pixels(Folder(str(folder), size=16)), before)
    with Path("/proc/self/maps").open() if Path("/proc/self/maps").exists() else Path(os.devnull).open() as maps:
        lines = maps.read()
    assert not lines or str(kept()[0]) in lines


@pytest.mark.parametrize("change", ["pixels", "name", "another", "size"])
def test_changed_files_are_decoded_again(folder: Path, opened: list[str], change: str) -> None:
    pixels(Folder(str(folder), size=16))
    file = folder / "train/class0/0.png"
    if change == "pixels":
        Image.new("RGB", (20, 24), (1, 2, 3)).save(file)
    elif change == "name":
        file.rename(file.with_name("00.png"))
    elif change == "another":
        Image.new("RGB", (20, 24), (1, 2, 3)).save(file.with_name("99.png"))
    size = 8 if change == "size" else 16
    again = pixels(Folder(str(folder), size=size))
    assert len(opened) > 12
    assert torch.equal(again, pixels(Folder(str(folder), size=size, cache=False)))


def test_a_replaced_file_with_the_old_size_and_time_is_decoded_again(folder: Path, opened: list[str]) -> None:
    file = folder / "train/class0/0.bmp"  # whose size is the same for any content
    Image.new("RGB", (20, 24), (1, 2, 3)).save(file)
    pixels(Folder(str(folder), size=16))
    before = file.stat()
    Image.new("RGB", (20, 24), (200, 100, 50)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = pixels(Folder(str(folder), size=16))
    assert again[0, :, 8, 8].tolist() == [200, 100, 50]


def test_a_damaged_list_of_unreadable_images_is_rebuilt(folder: Path) -> None:
    (folder / "train/class0/0.png").write_text("no image")
    source = Folder(str(folder), size=16, skip_corrupt=True)
    with pytest.warns(UserWarning, match="1 of 12 images cannot be read"):
        source.load("train")
    (path,) = Path(os.environ["SIMMIM_DATA_DIR"], ".decoded").glob("*.json")
    whole = path.read_text()
    for wrong in ("[1, 2]", "[[5, 900], 3]", "{}", whole.replace("[0]", "[4]")):
        path.write_text(wrong)
        with pytest.warns(UserWarning, match="1 of 12 images cannot be read"):
            assert len(source.load("train")) == 11
        assert path.read_text() == whole


@pytest.mark.parametrize("damage", ["truncated", "too long", "empty", "other pixels", "zeros"])
def test_a_damaged_cache_file_is_rebuilt(folder: Path, opened: list[str], damage: str) -> None:
    good = pixels(Folder(str(folder), size=16))
    (path,) = kept()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "too long":
        path.write_bytes(path.read_bytes() + b"more")
    elif damage == "other pixels":
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
    elif damage == "zeros":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.write_bytes(b"")
    assert torch.equal(pixels(Folder(str(folder), size=16)), good)
    assert len(opened) == 24
    pixels(Folder(str(folder), size=16))
    assert len(opened) == 24


def test_another_version_does_not_use_the_cache(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels(Folder(str(folder), size=16))
    monkeypatch.setattr(cache, "VERSION", "another")
    pixels(Folder(str(folder), size=16))
    assert (len(opened), len(kept())) == (24, 2)


def test_a_kill_while_writing_leaves_no_readable_cache(folder: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom simmim_pl.data import Folder\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Folder({str(folder)!r}, size=16).load('train')\n"
    )
    (tmp_path / "script.py").write_text(script)
    killed = Program("script", [], tmp_path, environment())
    assert killed.wait(60) == -9, killed.said()
    assert kept() == []
    assert len(list(Path(os.environ["SIMMIM_DATA_DIR"], ".decoded").glob("*.part"))) == 1
    assert torch.equal(pixels(Folder(str(folder), size=16)), pixels(Folder(str(folder), size=16, cache=False)))
    assert len(kept()) == 1
    assert not list(kept()[0].parent.glob("*.part"))


def test_a_full_disk_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(atomic.WriteError, match=r"No space left on device.*\.decoded"):
        Folder(str(folder), size=16).load("train")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("reason", ["read-only", "a file in the folder's place"])
def test_an_unwritable_cache_costs_only_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str
) -> None:
    if reason == "read-only":

        def refused(file: int) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "fsync", refused)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("SIMMIM_DATA_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be cached in .*\.decoded \(.*\): the next run decodes them again"):
        images = pixels(Folder(str(folder), size=16))
    assert torch.equal(images, pixels(Folder(str(folder), size=16, cache=False)))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("change", ["written", "removed"])
def test_a_folder_that_changes_during_decoding_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    real, file = decode.decode_all, folder / "train/class0/0.png"

    def meanwhile(files: list[str], size: int, form: PixelFormat) -> torch.Tensor:
        images = real(files, size, form)
        file.unlink() if change == "removed" else Image.new("RGB", (20, 24)).save(file)
        return images

    monkeypatch.setattr(cache, "decode_all", meanwhile)
    with pytest.raises(InputError, match=r"Images changed while they were decoded .*: start again"):
        Folder(str(folder), size=16).load("train")
    assert kept() == []


def test_a_dangling_link_is_named_or_left_out(folder: Path) -> None:
    (folder / "train/class0/99.png").symlink_to(folder / "nothing.png")
    with pytest.raises(InputError, match=r"99\.png cannot be read as an image"):
        Folder(str(folder), size=16).load("train")
    with pytest.raises(InputError, match=r"99\.png cannot be read as an image .*No such file"):
        Folder(str(folder), size=16, skip_corrupt=True).load("train")  # not corrupt: missing, perhaps temporarily


def test_two_simultaneous_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def slow(file: IO[bytes]) -> None:
        file.write(b"slow, ")
        atomic.write(path, lambda other: other.write(b"quick"))
        file.write(b"and late")

    with pytest.raises(atomic.WriteError, match="No such file"):
        atomic.write(path, slow)
    assert path.read_bytes() == b"quick"
    assert list(tmp_path.iterdir()) == [path]


def slowly(root: str, opened: "multiprocessing.Queue[str]") -> None:
    real = decode.decode

    def counted(file: str, size: int) -> Image.Image:
        opened.put(file)
        time.sleep(0.02)
        return real(file, size)

    decode.decode = counted
    Folder(root, size=16).load("train")


def test_only_one_of_several_processes_decodes(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    opened: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=slowly, args=(str(folder), opened)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(opened.get(timeout=5) for _ in range(12)) == sorted(map(str, folder.rglob("*.png")))
    assert opened.empty()


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["kept", "streamed"])
@pytest.mark.parametrize("cache", [True, False])
def test_corrupt_images_are_left_out_and_counted(
    folder: Path, opened: list[str], memory_gb: float, cache: bool
) -> None:
    whole = pixels(Folder(str(folder), size=16, cache=False))
    (folder / "train/class0/0.png").write_bytes(b"")  # class0 holds 0, 10, 2, 4, 6, 8
    good = (folder / "train/class1/3.png").read_bytes()
    (folder / "train/class1/3.png").write_bytes(good[: len(good) // 2])  # class1 holds 1, 11, 3, 5, 7, 9
    del opened[:]
    source = Folder(str(folder), size=16, memory_gb=memory_gb, cache=cache, skip_corrupt=True)
    with pytest.warns(UserWarning, match=r"2 of 12 images cannot be read and are left out: .*0\.png, .*3\.png$"):
        images = source.load("train")
    rest = [i for i in range(12) if i not in (0, 8)]
    assert len(images) == 10
    assert images.labels is not None
    assert images.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(images.read(torch.arange(10)), whole[rest])
    if cache:
        tried = len(opened)
        with pytest.warns(UserWarning, match="2 of 12"):
            source.load("train")
        assert len(opened) == tried


def test_a_folder_without_readable_images_is_refused(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.write_text("not an image")
    with pytest.raises(InputError, match=r"None of the 12 images can be read"):
        Folder(str(folder), skip_corrupt=True).load("train")
