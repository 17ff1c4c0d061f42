"""A disk that fills at any write ends a run with a one-line error; the run resumes bit-identically afterwards.

The disk is a mock that counts every write, and a tmpfs where this process may mount one. A limit on the
size of files, which any process may set for itself, is tested in ``test_failures.py``.
"""

import builtins
import errno
import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from simmim_pl.runtime import atomic
from tests.conftest import NO_PICTURES, isolate, newest_run
from tests.forked import ROOT, Program, environment
from tests.ranks import run
from tests.runtime.test_resume import LONG, assert_same, ending, lines, only_run

Cli = Callable[[list[Any]], Path]


class Disk:
    """A folder that allows a number of writes, and then none until :attr:`left` is set again.

    A write is a write call, or opening a file, creating a folder, renaming, or an fsync.
    Half of the bytes of the first failing write are written.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.left, self.written = folder, sys.maxsize, list[str]()
        self.open, self.fsync = io.open, os.fsync
        patch.setattr(io, "open", self.opened)
        patch.setattr(builtins, "open", self.opened)
        patch.setattr(Path, "open", lambda path, *args, **kwargs: self.opened(path, *args, **kwargs))
        patch.setattr(os, "fsync", self.synced)
        for name in ("mkdir", "replace"):
            patch.setattr(os, name, self.charging(getattr(os, name)))

    def charge(self, path: Any) -> None:
        """Count a write; the error has no path, as for an open file."""
        self.written.append(str(path))
        if len(self.written) > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def here(self, path: Any) -> bool:
        return isinstance(path, (str, Path)) and Path(os.path.abspath(path)).is_relative_to(self.folder)

    def charging(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **kwargs: Any) -> Any:
            if self.here(path) and not Path(path).is_dir():
                self.charge(path)
            return real(path, *args, **kwargs)

        return called

    def synced(self, file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):  # that of a folder is best effort
            self.charge("fsync")
        self.fsync(file)

    def opened(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *args: Any, **kw: Any
    ) -> Any:
        if not self.here(file) or "+" in mode or not set(mode) & set("wax"):
            return self.open(file, mode, buffering, encoding, *args, **kw)
        self.charge(file)
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                try:
                    disk.charge(file)
                except OSError:
                    super().write(bytes(data)[: len(data) // 2])
                    raise
                return super().write(data)

        buffer = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding or "utf-8", *args, **kw)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "runs", monkeypatch)


# Ten steps; a checkpoint after every second one, observations at the end.
FIT = [arg for arg in lines(2) if arg not in NO_PICTURES]
FILES = ("config.yaml", "views.png", "metrics.csv", "last.ckpt", "observed.npz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The result of a run with enough space, and the file of each of its writes."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("whole"))
        disk = Disk(Path.cwd() / "runs", patch)
        end = ending(newest_run(FIT))
    return end, [next((name for name in FILES if name in path), "") for path in disk.written]


def fills(cli: Cli, disk: Disk, capfd: pytest.CaptureFixture, writes: int, args: list[Any]) -> str:
    """The one-line error of a run on a disk with space for some more writes."""
    disk.left = len(disk.written) + writes
    with pytest.raises(SystemExit) as exit_:
        cli(args)
    disk.left = sys.maxsize
    assert exit_.value.code == 2
    return sentence(capfd.readouterr().err)


def sentence(printed: str) -> str:
    assert "Traceback" not in printed
    assert ".cc" not in printed
    (said,) = (line for line in printed.splitlines() if line.startswith("error: "))
    assert "cannot be written (no space left on device): free disk space." in said
    return said


def kept(said: str) -> bool:
    """Whether there is a checkpoint; it is complete, and the error names it."""
    for path in Path("runs").rglob("last.ckpt"):
        assert said.endswith(f"The last good checkpoint is kept: --ckpt_path {path}.")
        assert torch.load(path, weights_only=True)["global_step"] > 0
        return True
    assert said.endswith("free disk space.")
    return False


@pytest.mark.parametrize(
    ("file", "place"),
    [(file, tenth / 10) for file in FILES for tenth in range(11)]
    if LONG
    else [*((file, 0.6) for file in FILES), ("metrics.csv", 0.0), ("last.ckpt", 0.1)],
)
def test_a_run_resumes_identically_after_a_full_disk_at_any_write(
    cli: Cli, disk: Disk, capfd: pytest.CaptureFixture, whole: tuple[dict[str, Any], list[str]], file: str, place: float
) -> None:
    end, writes = whole
    these = [number for number, name in enumerate(writes) if name == file]
    said = fills(cli, disk, capfd, these[int(place * (len(these) - 1))], FIT)
    assert f"/{file} cannot be written" in said
    kept(said)
    assert not list(Path("runs").rglob("*.part"))
    cli([*FIT, "--ckpt_path=last"])
    assert_same(end, ending(only_run("runs")))


def test_a_run_resumes_after_repeated_full_disks(
    cli: Cli, disk: Disk, capfd: pytest.CaptureFixture, whole: tuple[dict[str, Any], list[str]]
) -> None:
    end, writes = whole
    fills(cli, disk, capfd, len(writes) - 1 - writes[::-1].index("metrics.csv"), FIT)
    for more in range(0, 14, 1 if LONG else 4):  # the history is restored, the config is written, the run resumes
        assert kept(fills(cli, disk, capfd, more, [*FIT, "--ckpt_path=last"]))
    cli([*FIT, "--ckpt_path=last"])
    assert_same(end, ending(only_run("runs")))


def mount(folder: Path, options: str) -> bool:
    """Whether a tmpfs could be mounted or changed there; in most containers even root may not."""
    called = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return bool(shutil.which("mount")) and subprocess.run(called, capture_output=True).returncode == 0


def test_a_real_full_disk_with_wandb(tmp_path: Path, whole: tuple[dict[str, Any], list[str]]) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    if not mount(runs, "size=280k"):  # space for one checkpoint, but not for two
        pytest.skip("this process may not mount a tmpfs")
    try:
        args = [*FIT, f"--runs={runs}", "--ckpt_path=last"]
        process = Program("simmim_pl", args, tmp_path, environment(WANDB_MODE="offline"))
        _, text = process.communicate(300)
        assert process.returncode == 2, text
        (last,) = runs.rglob("last.ckpt")
        said = sentence(text)
        assert said.startswith(f"error: {last} cannot be written")
        assert said.endswith(f"The last good checkpoint is kept: --ckpt_path {last}.")
        assert not list(runs.rglob("*.part"))
        assert mount(runs, "remount,size=8m")
        run(1, [args], tmp_path)
        assert_same(whole[0], ending(only_run(str(runs))))
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_checkpoints_can_be_written_to_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    atomic.DurableIO().save_checkpoint({"state_dict": {}, "epoch": np.int64(3)}, "memory://bucket/a/x.ckpt")
    with fsspec.open("memory://bucket/a/x.ckpt") as file:
        assert torch.load(file, weights_only=True)["epoch"] == 3
    assert list(tmp_path.iterdir()) == []


def test_the_drive_cache_is_flushed_on_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("fcntl.F_FULLFSYNC", 51, raising=False)  # as on macOS
    monkeypatch.setattr("fcntl.fcntl", lambda file, command: asked.append(command))
    atomic.write(tmp_path / "file", lambda file: file.write(b"x"))
    assert asked == [51, 51]  # the file, and its name in the folder


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_failed_writes_are_explained(tmp_path: Path, code: int) -> None:
    def fails(file: Any) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(atomic.WriteError) as caught:
        atomic.write(tmp_path / "file", fails)
    came = RuntimeError("of what came of it")
    assert atomic.explain(came) is None
    came.__context__ = caught.value
    said = atomic.explain(came)
    assert atomic.is_disk_full(came) == (code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    assert said is not None
    assert said.startswith(f"{tmp_path}/file cannot be written ({os.strerror(code)[0].lower()}{os.strerror(code)[1:]})")
    assert said.endswith(f": {atomic.WRITE_ADVICE[code]}.")


def test_other_errors_are_not_explained(tmp_path: Path) -> None:
    missing, device = FileNotFoundError(errno.ENOENT, "No such file", "image.png"), RuntimeError("CUDA error")
    device.__context__ = missing
    for error in (missing, device, KeyError(1)):
        assert atomic.explain(error) is None
        assert not atomic.is_disk_full(error)
    with pytest.raises(RuntimeError, match="CUDA error"), atomic.name_file_in_errors(tmp_path):
        raise device


def test_errors_of_torchs_writer_are_explained(tmp_path: Path) -> None:
    """torch.save to a path reports only an unexpected position."""
    script = (
        "import resource, torch; from simmim_pl.runtime import atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        f"try: torch.save(torch.rand(9999), {str(tmp_path / 'file')!r})\n"
        "except RuntimeError as error: print(atomic.explain(error))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "A file cannot be written (no space left on device): free disk space.\n", done.stderr


def test_a_full_disk_in_wandbs_process_is_detected(tmp_path: Path) -> None:
    """W&B's own process writes, and continues when it cannot."""
    script = """
        import resource, time, wandb
        from simmim_pl.runtime import atomic
        from simmim_pl.callbacks.dashboard import require_written
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        run = wandb.init(mode="offline", settings=wandb.Settings(silent=True))
        require_written(run)
        for step in range(50):
            run.log({f"value {number}": step + number / 7 for number in range(200)})
        until = time.monotonic() + 60
        said = None
        while said is None and time.monotonic() < until:
            time.sleep(0.1)
            try:
                require_written(run)
            except OSError as error:
                said = atomic.explain(error)
        print(said)
        wandb.teardown()
    """
    (tmp_path / "script.py").write_text(dedent(script))
    out, error = Program("script", [], tmp_path, environment()).communicate(120)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert out.startswith(f"{file} cannot be written (file too large): free disk space"), error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device of Linux that is always full")
def test_output_to_a_full_disk() -> None:
    script = """if True:
        import sys
        from contextlib import suppress
        from simmim_pl.runtime import atomic
        try:
            print("table")  # fails here where Python does not buffer it
            atomic.flush_stdout()
        except OSError as error:
            with suppress(OSError):
                atomic.flush_stdout()
            sys.exit(atomic.explain(error))
    """
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert "\n" not in done.stderr.strip()
    assert done.stderr.endswith(" cannot be written (no space left on device): free disk space.\n")
    assert done.returncode == 1  # and not 120, Python's code for a failure at exit
