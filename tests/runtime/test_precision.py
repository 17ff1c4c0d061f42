"""Lower precision has the same learning curve within seed noise; compilation happens once or twice."""

import csv
import os
import re
import shutil
import statistics
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from simmim_pl.runtime import precision
from tests.conftest import CONFIGS, QUIET, TINY
from tests.forked import Program, environment

Cli = Callable[[list[Any]], Path]
LONG = os.environ.get("LONG") == "1"
UNSAID = [arg for arg in TINY if "precision" not in arg]

# The quickstart on fewer images, for three epochs of 28 steps.
FIT = ["fit", f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--trainer.max_epochs=3"]
FIT += ["--data.source.train=4000", "--data.batch_size=128"]
FIT += ["--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]


def curve(run: Path) -> list[float]:
    """Loss of every step, averaged over ten."""
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    return [statistics.mean(losses[start : start + 10]) for start in range(0, len(losses) - 9, 10)]


def distance(one: list[float], other: list[float]) -> float:
    """Mean absolute difference of two curves."""
    assert len(one) == len(other) >= 8
    return statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True))


def curves(cli: Callable[[list[Any]], Path], precision: str, *more: str) -> list[list[float]]:
    """Curves of three seeds."""
    line = [*FIT, f"--trainer.precision={precision}", *more]
    return [curve(cli([*line, f"--seed_everything={seed}"])) for seed in range(3)]


def assert_same_within_seed_noise(exact: list[list[float]], lower: list[list[float]]) -> None:
    """A seed's curves in both precisions are closer than the curves of two seeds."""
    noise = statistics.mean(distance(*pair) for pair in combinations(exact, 2))
    assert all(each[-1] < each[0] - 0.3 for each in exact)  # it learns
    assert 0 < statistics.mean(distance(*pair) for pair in zip(exact, lower, strict=True)) < noise


@pytest.mark.skipif(not LONG, reason="a minute, and many where bfloat16 is emulated: make test-long")
def test_bfloat16_learns_the_curve_of_float32_within_seed_noise(cli: Callable[[list[Any]], Path]) -> None:
    assert_same_within_seed_noise(curves(cli, "32-true"), curves(cli, "bf16-mixed"))


@pytest.mark.cuda
def test_float16_learns_the_curve_of_float32_within_seed_noise(cli: Callable[[list[Any]], Path]) -> None:
    gpu = "--trainer.accelerator=gpu"
    assert_same_within_seed_noise(curves(cli, "32-true", gpu), curves(cli, "16-mixed", gpu))


def test_float16_on_a_cpu_becomes_bfloat16_with_a_warning(cli: Callable[[list[Any]], Path]) -> None:
    with pytest.warns(UserWarning, match="AMP with fp16 is not supported on CPU. Using `precision='bf16-mixed'`"):
        run = cli([*TINY, "--trainer.precision=16-mixed"])
    assert (run / "checkpoints/last.ckpt").is_file()


CHOICES = [
    ({"avx512_bf16": True}, True, "bf16-mixed", "this cpu computes bfloat16 in hardware"),
    ({"amx_bf16": True}, True, "bf16-mixed", "this cpu computes bfloat16 in hardware"),
    ({"avx512_bf16": True}, False, "32-true", "this cpu does not compute bfloat16 in hardware"),  # limited to AVX2
    ({}, True, "32-true", "this cpu does not compute bfloat16 in hardware"),  # AVX-512 without it, and AVX2
]


@pytest.mark.parametrize(("has", "kernels", "chosen", "said"), CHOICES)
def test_pretraining_uses_the_best_precision_of_the_processor(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has: dict[str, bool],
    kernels: bool,
    chosen: str,
    said: str,
) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: has)
    monkeypatch.setattr(precision, "onednn_has_bfloat16", lambda: kernels)
    run = cli([*UNSAID, "--trainer.max_steps=1"])
    assert f"Precision {chosen}: {said}" in caplog.text
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == chosen
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["config"]["trainer"]["precision"] == chosen


@pytest.mark.parametrize(
    ("asked", "emulated"), [("32-true", False), ("bf16-mixed", True), ("bf16", True), ("64-true", False)]
)
def test_a_users_precision_is_used_with_a_warning_if_emulated(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: str, emulated: bool
) -> None:
    monkeypatch.setattr(precision, "capabilities", dict)
    run = cli([*UNSAID, "--trainer.max_steps=1", f"--trainer.precision={asked}"])
    assert (f"This cpu emulates {asked}, which is several times slower" in caplog.text) == emulated
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == asked


ON_A_GPU = [
    (None, True, "bf16-mixed", "hardware, the rest is float32 without TF32 (or --trainer.precision 32-true)."),
    (None, False, "32-true", "does not compute bfloat16 in hardware (or --trainer.precision 16-mixed)."),
    ("32-true", True, "32-true", "float32 without TF32, much slower"),
    ("32-true", False, "32-true", ""),
    ("16-mixed", True, "16-mixed", ""),
]


@pytest.mark.parametrize(("asked", "has", "chosen", "said"), ON_A_GPU)
def test_a_gpu_uses_bfloat16_if_supported(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, has: bool, chosen: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=8 if has else 7))
    found, sentence = precision.choose(asked, "gpu")
    assert (found, bool(sentence)) == (chosen, bool(said))
    assert said in sentence


def test_float32_is_never_tf32(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (["--trainer.max_steps=1"], ["--trainer.precision=bf16-mixed", "--trainer.max_steps=1"]):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        torch.set_float32_matmul_precision("high")
        cli([*UNSAID, *line])
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32


def test_evaluations_and_predictions_stay_in_float32(cli: Cli, pretrained: Path) -> None:
    args = [arg for arg in UNSAID if arg != "fit"]
    for line in (["validate", *args], ["predict", *args]):
        run = cli([*line, f"--ckpt_path={pretrained}"])
        assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == "32-true"


def test_bfloat16_support_of_this_processor_is_detected() -> None:
    for kind in ("cpu", "cuda"):
        assert isinstance(precision.bfloat16_in_hardware(kind), bool)
    assert not precision.bfloat16_in_hardware("mps")
    assert precision.choose(16, "mps") == (16, "")
    assert precision.choose(None, "mps") == (
        "32-true",
        "Precision 32-true: bf16-mixed is untested on mps (--trainer.precision bf16-mixed does).",
    )
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    if "flags" in flags:  # Linux on x86 reports it too
        assert any(precision.capabilities().values()) == ("avx512_bf16" in flags or "amx_bf16" in flags)


BACKENDS = [
    "eager",
    *(["inductor"] if LONG and shutil.which("g++") else []),
]  # for which torch.compile needs a compiler
TOLD = """
import atexit, functools, torch
torch._logging.set_logs(recompiles=True)
torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend={!r})
atexit.register(lambda: print(dict(torch._dynamo.utils.counters["stats"]), flush=True))
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("more", [["--model.gradient_cache=2"], []])
def test_a_compiled_run_recompiles_at_most_twice(tmp_path: Path, more: list[str], backend: str) -> None:
    # In a separate process: the shape checks of these tests would be compiled too.
    line = [*TINY, "--model.compile=true", "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1", *more]
    own = environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"), TORCHINDUCTOR_COMPILE_THREADS="1")
    process = Program("simmim_pl", line, tmp_path, own, partial(exec, TOLD.format(backend), {}))
    counted, said = process.communicate(300)
    assert process.returncode == 0, said
    assert re.search(r"'unique_graphs': [1-9]", counted)  # it was compiled
    assert bool(list((tmp_path / "compiled").rglob("*.py"))) == (backend == "inductor")
    assert said.count("Recompiling function") <= 2
