"""A run that is stopped anywhere and resumes from its last checkpoint ends like an uninterrupted run.

Bit-identical are weights, optimizer, schedule, online probe, and metrics.csv except images per second. Most
stops here are copies of the files, or exceptions within the process, which is quick; the last tests kill real
runs with SIGKILL and other signals.
``LONG=1`` (`make test-long`) stops at every batch, and kills twenty times.
"""

import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simmim_pl.contracts import Features
from simmim_pl.encoders import FastCNN
from tests.conftest import NO_PICTURES, TINY
from tests.forked import Program, environment
from tests.ranks import Killed, run, start
from tests.test_parity import BYOL, LOCAL, MASKED, MOCO_V3

MACHINE = {"train/seconds", "train/images_per_second", "train/memory_gb"}  # metrics that are not reproducible
LONG = os.environ.get("LONG") == "1"
# Two epochs of five steps, a validation after each epoch, logging at every step.
BASE = [
    *TINY,
    "--trainer.log_every_n_steps=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.num_sanity_val_steps=0",
]


class Dropping(FastCNN):
    """An encoder that uses global random numbers."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, image: Tensor) -> Features:
        features = super().forward(self.dropout(image))
        return Features(pooled=self.dropout(features.pooled), feature_map=features.feature_map)


def lines(every: int, *more: str) -> list[str]:
    return [*BASE, *NO_PICTURES, f"--callbacks.checkpoint.every_n_steps={every}", *more]


def folder_of_images(place: Path) -> list[str]:
    """Options for the same training on files, decoded by two processes for every batch."""
    for number in range(60):
        path = place / f"train/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 20), 10 + number).convert("RGB").save(path)
    source = ["--data.source=simmim_pl.data.Folder", f"--data.source.root={place}", "--data.source.memory_gb=0"]
    return [*source, "--data.source.size=16", "--data.batch_size=10", "--data.validation=10", "--data.workers=2"]


CASES: dict[str, list[str]] = {
    "plain": [],
    "vicreg, validated within epochs": ["--model.loss=simmim_pl.losses.VICReg", "--trainer.val_check_interval=2"],
    "barlow twins, validated across epochs": [
        *("--model.loss=simmim_pl.losses.BarlowTwins", "--trainer.val_check_interval=3"),
        "--trainer.check_val_every_n_epoch=null",
    ],
    "dropout": ["--model.encoder=tests.runtime.test_resume.Dropping", "--model.encoder.width=2"],
    "gradient cache": ["--model.gradient_cache=3", "--trainer.precision=bf16-mixed"],
    "local views": LOCAL,
    "moco v3, late views": [
        *MOCO_V3,
        "--data.final_views=simmim_pl.views.ContrastiveViews",
        "--data.final_views.size=20",
        "--data.final_share=0.5",
    ],
    "rotation, sgd, accumulated": [
        *("--model=simmim_pl.methods.Rotation", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"),
        *("--model.optimizer.momentum=0.9", "--trainer.accumulate_grad_batches=2"),
    ],
    "random directions": ["--model.loss=simmim_pl.losses.SIGReg"],
    "teacher": [*BYOL, "--trainer.accumulate_grad_batches=2"],
    "muon": ["--model.optimizer=simmim_pl.optimizers.Muon"],
    "masked images": MASKED,
}


def ending(run: Path) -> dict[str, Any]:
    """The values that have to be identical."""
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    kept = {key: saved[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")}
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    return kept | {
        "epoch": saved["epoch"],
        "history": [{k: v for k, v in row.items() if k not in MACHINE} for row in rows],
    }


def same(one: Any, other: Any) -> bool:
    """Bit-identity of nested values."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert same(value, other[key]), key


def only_run(folder: str) -> Path:
    """The run with a checkpoint: a run killed before its first checkpoint is started again, not resumed."""
    (found,) = Path(folder, "quickstart").glob("*/checkpoints/last.ckpt")
    return found.parents[1]


@pytest.mark.parametrize("case", [*CASES, "files"])
def test_a_run_killed_after_any_batch_resumes_identically(
    cli: Callable[[list[Any]], Path], tmp_path: Path, case: str
) -> None:
    more = folder_of_images(tmp_path / "images") if case == "files" else CASES[case]
    args, stops = lines(1, *more), range(1, 11) if LONG else (3, 8) if case == "plain" else (8,)
    copies = [f"--trainer.callbacks.batches={list(stops)}", f"--trainer.callbacks.folder={tmp_path}"]
    cli([*args, "--runs=whole", "--trainer.callbacks+=tests.ranks.Snapshots", *copies])
    whole = ending(only_run("whole"))
    assert whole["callbacks"]
    assert max(int(row["step"]) for row in whole["history"]) > 4
    for batch in stops:
        cli([*args, f"--runs=stopped{batch}", "--ckpt_path=last"])
        assert_same(whole, ending(only_run(f"stopped{batch}")))


def stopped_and_resumed(cli: Callable[[list[Any]], Path], args: list[str], batch: int, runs: str) -> dict[str, Any]:
    """The final state of a run that was killed after a batch, and resumed."""
    dies = ["--trainer.callbacks+=tests.ranks.Crashes", f"--trainer.callbacks.batch={batch}"]
    with pytest.raises(Killed):
        cli([*args, f"--runs={runs}", *dies])
    cli([*args, f"--runs={runs}", "--ckpt_path=last"])
    return ending(only_run(runs))


def test_a_run_resumes_identically_after_several_kills(cli: Callable[[list[Any]], Path]) -> None:
    args = lines(1)
    cli([*args, "--runs=whole"])
    for batch in range(1, 10) if LONG else (3, 8):
        dies = ["--trainer.callbacks+=tests.ranks.Crashes", f"--trainer.callbacks.batch={batch}"]
        with pytest.raises(Killed):
            cli([*args, "--runs=part", "--ckpt_path=last", *dies])
    cli([*args, "--runs=part", "--ckpt_path=last"])
    assert_same(ending(only_run("whole")), ending(only_run("part")))


def begin(ranks: int, args: list[str], runs: Path) -> list[Program]:
    """Start ``--ckpt_path last`` on ranks, and wait until it has written a checkpoint."""
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("last.ckpt")}
    processes = start(ranks, [[*args, f"--runs={runs}", "--ckpt_path=last"]], runs.parent)
    while all(path.stat().st_mtime_ns == before.get(path) for path in runs.rglob("last.ckpt")):
        if processes[0].poll() is not None:
            break
        time.sleep(0.002)
    return processes


def kill(processes: list[Program]) -> bool:
    """Kill all at once; return whether they were still running."""
    working = processes[0].poll() is None
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    return working


def while_writing(runs: Path, processes: list[Program]) -> bool:
    """Wait until a checkpoint is partly written; return whether this happened before the run ended."""
    while processes[0].poll() is None:
        for part in runs.rglob("*.part"):
            return part.exists()
    return False


# 20 epochs of five steps, some seconds; a checkpoint at every third step.
LONGER = [*lines(3, "--trainer.max_epochs=20"), "--trainer.check_val_every_n_epoch=10"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(1, [[*LONGER, "--runs=runs"]], folder)
    return ending(only_run(str(folder / "runs")))


def test_a_run_killed_at_random_moments_resumes_identically(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    chance, runs = random.Random(0), tmp_path / "runs"
    killed = writing = 0
    while killed < (20 if LONG else 3):
        processes = begin(1, LONGER, runs)
        if writing < 2 and while_writing(runs, processes):
            halves = [part.exists() for part in runs.rglob("*.part")]
            killed += kill(processes)
            writing += any(halves)
        else:
            time.sleep(chance.uniform(0, 0.5))
            killed += kill(processes)
        assert torch.load(only_run(str(runs)) / "checkpoints/last.ckpt", weights_only=True)  # whole
        if processes[0].returncode == 0:  # it finished first: start again
            only_run(str(runs)).rename(tmp_path / f"done{killed}{time.time()}")
    run(1, [[*LONGER, f"--runs={runs}", "--ckpt_path=last"]], tmp_path)
    assert writing == 2
    assert_same(uninterrupted, ending(only_run(str(runs))))
    assert not list(runs.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_with_a_checkpoint_of_that_step(
    uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    scontrol, runs = tmp_path / "bin/scontrol", tmp_path / "runs"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    (process,) = begin(1, LONGER, runs)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    stopped = torch.load(only_run(str(runs)) / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert f"Stopped by {number.name} after step {stopped}. To resume: --ckpt_path" in said
    assert (tmp_path / "requeued").exists() == (number == signal.SIGUSR1)
    if number == signal.SIGUSR1:
        assert (tmp_path / "requeued").read_text() == "requeue 123\n"
    if LONG or number == signal.SIGTERM:
        run(1, [[*LONGER, f"--runs={runs}", "--ckpt_path=last"]], tmp_path)
        assert_same(uninterrupted, ending(only_run(str(runs))))


DOUBLE = [*lines(3, "--trainer.max_epochs=8"), "--trainer.check_val_every_n_epoch=4", "--trainer.precision=64-true"]


def test_two_killed_ranks_resume_identically_or_as_one_process(tmp_path: Path) -> None:
    run(2, [[*DOUBLE, "--runs=whole"]], tmp_path)
    whole = ending(only_run(str(tmp_path / "whole")))
    processes = begin(2, DOUBLE, tmp_path / "part")
    time.sleep(0.2)
    assert kill(processes)
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "part", tmp_path / "other/runs")
    run(2, [[*DOUBLE, "--runs=part", "--ckpt_path=last"]], tmp_path)
    assert_same(whole, ending(only_run(str(tmp_path / "part"))))
    # On another number of devices images and views are the same; only the order of sums differs.
    run(1, [[*DOUBLE, "--runs=runs", "--ckpt_path=last"]], tmp_path / "other")
    alone = ending(only_run(str(tmp_path / "other/runs")))
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(alone["state_dict"][name], value, atol=1e-8, rtol=1e-8)
    assert alone["global_step"] == whole["global_step"]


def test_sigterm_to_one_rank_ends_all_of_them_after_the_same_step(tmp_path: Path) -> None:
    first, second = begin(2, LONGER, tmp_path / "runs")
    second.send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert "Stopped by SIGTERM after step" in said[0]
    assert [first.returncode, second.returncode] == [128 + signal.SIGTERM] * 2  # the exit code tells the launcher
    assert torch.load(only_run(str(tmp_path / "runs")) / "checkpoints/last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--data.batch_size=30", "data.batch_size is 32 in the checkpoint and 30 now, and a run can only resume with"),
        ("--data.source.train=300", "number of training images was 180 in the checkpoint and is 270 now"),
        ("--seed_everything=1", "seed_everything is 0 in the checkpoint and 1 now"),
    ],
)
def test_resuming_with_other_batches_is_refused(
    cli: Callable[[list[Any]], Path], capsys: pytest.CaptureFixture, pretrained: Path, change: str, says: str
) -> None:
    run = pretrained.parents[1]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="2"):  # in its own run directory
        cli([*TINY, f"--runs={run.parents[1]}", f"--ckpt_path={pretrained}", "--trainer.max_epochs=3", change])
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_checkpoint_of_another_version_is_refused_only_for_resuming(
    cli: Callable[[list[Any]], Path], capsys: pytest.CaptureFixture, pretrained: Path, tmp_path: Path
) -> None:
    saved = torch.load(pretrained, weights_only=True)
    saved |= {"format": saved["format"] - 1, "version": "0.0.7"}
    torch.save(saved, tmp_path / "older.ckpt")
    with pytest.raises(SystemExit, match="2"):
        cli([*TINY, f"--ckpt_path={tmp_path / 'older.ckpt'}"])
    assert "older.ckpt was written by another version of simmim_pl (0.0.7)" in capsys.readouterr().err
    cli(["validate", *TINY[1:], f"--ckpt_path={tmp_path / 'older.ckpt'}"])  # it can still be evaluated


def test_last_is_the_newest_checkpoint_of_the_name(
    cli: Callable[[list[Any]], Path], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli(["validate", *TINY[1:], "--ckpt_path=last"])
    assert "There is no checkpoint in runs/quickstart: name its path" in capsys.readouterr().err
    first = cli([*TINY, "--ckpt_path=last"])
    second = cli([*TINY, "--name=other"])
    third = cli(TINY)
    assert len({first, second, third}) == 3
    assert cli([*TINY, "--ckpt_path=last", "--trainer.max_epochs=3"]) == third
    # Under another name, a checkpoint starts a new run and does not change the original one.
    kept = (first / "checkpoints/last.ckpt").read_bytes()
    branch = cli([*TINY, f"--ckpt_path={first / 'checkpoints/last.ckpt'}", "--name=branch", "--trainer.max_epochs=3"])
    assert branch.parent.name == "branch"
    assert (first / "checkpoints/last.ckpt").read_bytes() == kept
    assert len(ending(branch)["history"]) > len(ending(first)["history"])  # which is part of the run


def test_a_resumed_run_continues_the_same_wandb_run(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    stopped_and_resumed(cli, lines(1), 4, "runs")
    found = sorted(only_run("runs").glob("wandb/offline-run-*"))
    assert len(found) == 2
    assert {path.name.split("-", 3)[-1] for path in found} == {only_run("runs").name}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_all_processes_does_not_stop_data_workers(tmp_path: Path, number: signal.Signals) -> None:
    args = [*lines(3, *folder_of_images(tmp_path / "images")), "--trainer.max_epochs=2000", "--runs=runs"]
    args += ["--trainer.check_val_every_n_epoch=2000"]
    process = Program("simmim_pl", args, tmp_path, environment())
    while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert f"Stopped by {number.name} after step" in said
    assert "Traceback" not in said
