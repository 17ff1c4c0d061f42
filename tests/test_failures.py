"""A failure on one rank ends all soon with that rank's error; complete files are kept."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from simmim_pl.contracts import InputError
from simmim_pl.runtime.atomic import WriteError, write
from tests.conftest import NO_PICTURES, TINY
from tests.forked import ROOT, Program, environment
from tests.ranks import free_port, place, run, start

LONG = os.environ.get("LONG") == "1"  # `make test-long`
FIT = [*TINY, *NO_PICTURES]
DDP = [*FIT, "--trainer.strategy=ddp", "--trainer.devices=2"]


class Fails(Callback):
    """Fails on one rank in the third step."""

    def __init__(self, rank: int, mendable: bool = True) -> None:
        self.rank, self.mendable = rank, mendable

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2 and trainer.global_rank == self.rank:
            raise InputError("This device is out of luck.") if self.mendable else OSError("a cable was pulled")


def ended(processes: list[Any], seconds: float = 120) -> list[tuple[int, str]]:
    """Exit code and stderr of each rank, within seconds."""
    until = time.monotonic() + seconds
    try:
        said = [process.communicate(timeout=until - time.monotonic())[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def ranks_in(folder: Path) -> list[str]:
    """Processes whose command line names a folder."""
    return subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(("rank", "mendable"), [(1, True), *([(1, False), (0, True)] if LONG else [])])
def test_a_failing_rank_ends_the_others(tmp_path: Path, rank: int, mendable: bool) -> None:
    fails = ["--trainer.callbacks+=tests.test_failures.Fails", f"--trainer.callbacks.rank={rank}"]
    fails += [f"--trainer.callbacks.mendable={str(mendable).lower()}"]
    since = time.monotonic()
    process = Program("simmim_pl", [*DDP, *fails, f"--runs={tmp_path}/runs"], tmp_path, environment())
    while process.poll() is None and not ranks_in(tmp_path):
        time.sleep(0.05)
    assert len(ranks_in(tmp_path)) == 1  # the second rank; the first is a fork with its parent's command line
    ((code, said),) = ended([process], 90)
    assert code != 0
    assert ("error: This device is out of luck." if mendable else "a cable was pulled") in said
    assert ("Traceback" in said) == (not mendable)
    assert time.monotonic() - since < 90
    assert not ranks_in(tmp_path)  # none is left behind


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (["--data.source.train=190"], "do not agree on the number of train images: it is 180 on rank 0 and 171 on"),
        (["--seed_everything=1"], "do not agree on the seed: it is 0 on rank 0 and 1 on rank 1"),
        (["--data.batch_size=40"], "do not agree on the batch_size: it is 32 on rank 0 and 40 on rank 1"),
    ][: None if LONG else 1],
)
def test_ranks_with_different_arguments_are_refused(tmp_path: Path, second: list[str], says: str) -> None:
    port = free_port()
    first = start(2, [FIT], tmp_path, port)
    first[1].kill()  # replaced by another
    (tmp_path / "other").mkdir()
    other = start(2, [[*FIT, *second]], tmp_path / "other", port)
    other[0].kill()
    for code, said in ended([first[0], other[1]]):
        assert code == 2
        assert says in said
        assert "Traceback" not in said


def test_a_rank_without_the_checkpoint_is_refused_before_validation(tmp_path: Path, pretrained: Path) -> None:
    port, more = free_port(), ["--trainer.max_epochs=3"]
    first = start(2, [[*FIT, *more, f"--ckpt_path={pretrained}"]], tmp_path, port)
    first[1].kill()
    (tmp_path / "other").mkdir()
    other = start(2, [[*FIT, *more]], tmp_path / "other", port)
    other[0].kill()
    for code, said in ended([first[0], other[1]]):
        assert code == 2
        assert "do not agree on the checkpoint to resume from: it is step 10 (" in said
        assert ") on rank 0 and None on rank 1" in said


def test_ranks_with_different_code_are_refused(tmp_path: Path) -> None:
    copy, port = tmp_path / "copy", free_port()
    shutil.copytree(ROOT / "simmim_pl", copy / "simmim_pl", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "simmim_pl/encoders/heads.py").open("a") as file:
        file.write("\n# edited on one node only\n")
    first = start(2, [FIT], tmp_path, port)
    first[1].kill()
    names = environment(**place(1, 2, port), PYTHONPATH=str(copy))
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-m", "simmim_pl", *DDP], cwd=copy, env=names, **pipes)
    for code, said in ended([first[0], other]):
        assert code == 2
        assert "do not agree on the code: it is 0.1.0-" in said


def test_a_port_in_use_is_a_one_line_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first, second = start(2, [FIT], tmp_path, port)
        second.kill()
        ((code, said), _) = ended([first, second])
    assert code == 2
    assert f"error: Port {port} of 127.0.0.1 is in use" in said
    assert "MASTER_PORT" in said
    assert "Traceback" not in said


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, pretrained: Path) -> None:
    shutil.copytree(pretrained.parents[3], tmp_path / "runs")
    path = tmp_path / pretrained.relative_to(pretrained.parents[4])
    before = path.read_bytes()
    more = [*FIT, "--runs=runs", "--trainer.max_epochs=3", "--ckpt_path=last"]
    limit = len(before) // 2  # the limit of a file's size, which acts like a full disk
    tight = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    ((code, said),) = ended([Program("simmim_pl", more, tmp_path, environment(), tight)])
    assert code == 2, said
    kept = path.relative_to(tmp_path)
    assert f"error: {kept} cannot be written (file too large): free disk space" in said
    assert f"The last good checkpoint is kept: --ckpt_path {kept}." in said
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.part"))
    run(1, [more], tmp_path)  # with space again it resumes
    assert torch.load(path, weights_only=True)["global_step"] == 15


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(28, "No space left on device"), WriteError),
        (RuntimeError("unexpected pos"), WriteError),
        (RuntimeError("CUDA error"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_files_are_replaced_atomically(tmp_path: Path, error: BaseException, becomes: type) -> None:
    path = tmp_path / "folder/file"
    write(path, lambda file: file.write(b"first"))

    def half(file: Any) -> None:
        file.write(b"sec")
        assert path.read_bytes() == b"first"
        raise error

    with pytest.raises(becomes):
        write(path, half)
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"first"
    write(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
