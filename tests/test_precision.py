"""Lower precision learns the same curve within what another seed changes; compiling is done once or twice."""

import csv
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CONFIGS, QUIET, TINY
from tests.ranks import ROOT

# The quickstart's own training for three epochs of 35 steps.
FIT = ["fit", f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--trainer.max_epochs=3"]
FIT += ["--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]


def curve(run: Path) -> list[float]:
    """Loss of every step, averaged over ten."""
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    return [statistics.mean(losses[start : start + 10]) for start in range(0, len(losses) - 9, 10)]


def distance(one: list[float], other: list[float]) -> float:
    """Mean absolute difference of two curves."""
    assert len(one) == len(other) >= 10
    return statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True))


def curves(cli: Callable[[list[Any]], Path], precision: str, *more: str) -> list[list[float]]:
    """Of three seeds."""
    line = [*FIT, f"--trainer.precision={precision}", *more]
    return [curve(cli([*line, f"--seed_everything={seed}"])) for seed in range(3)]


def assert_same_within_seed_noise(exact: list[list[float]], lower: list[list[float]]) -> None:
    """A seed's curves in both precisions are closer than the curves of two seeds."""
    noise = statistics.mean(distance(*pair) for pair in combinations(exact, 2))
    assert all(each[-1] < each[0] - 0.3 for each in exact)  # it learns
    assert 0 < statistics.mean(distance(*pair) for pair in zip(exact, lower, strict=True)) < noise


def test_bfloat16_learns_the_curve_of_float32_within_seed_noise(cli: Callable[[list[Any]], Path]) -> None:
    assert_same_within_seed_noise(curves(cli, "32-true"), curves(cli, "bf16-mixed"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 is for GPUs")
def test_float16_learns_the_curve_of_float32_within_seed_noise(cli: Callable[[list[Any]], Path]) -> None:
    gpu = "--trainer.accelerator=gpu"
    assert_same_within_seed_noise(curves(cli, "32-true", gpu), curves(cli, "16-mixed", gpu))


def test_float16_on_a_cpu_is_bfloat16_and_says_so(cli: Callable[[list[Any]], Path]) -> None:
    with pytest.warns(UserWarning, match="AMP with fp16 is not supported on CPU. Using `precision='bf16-mixed'`"):
        run = cli([*TINY, "--trainer.precision=16-mixed"])
    assert (run / "checkpoints/last.ckpt").is_file()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("more", [["--model.gradient_cache=2"], *([[]] if os.environ.get("LONG") == "1" else [])])
def test_a_compiled_run_compiles_no_more_than_twice_again(tmp_path: Path, more: list[str]) -> None:
    # In a process of its own: the checks of shapes in these tests would be compiled too.
    line = [*TINY, "--model.compile=true", "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1", *more]
    environment = {**os.environ, "WANDB_MODE": "disabled", "TORCH_LOGS": "recompiles", "PYTHONPATH": str(ROOT)}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = subprocess.run(
        [sys.executable, "-m", "simmim_pl", *line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "compiled").rglob("*.py"))  # it was compiled
    assert done.stderr.count("Recompiling function") <= 2
