"""The benchmark of a GPU runs without one, and counts in the profiler's trace what it says it counts."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_table_of_a_gpu_has_its_rows_without_one(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--smoke", "--only=device,cifar10_fast", f"--out={tmp_path}/out"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = {row["name"]: row for row in json.loads((tmp_path / "out").read_text())["rows"]}
    alone, fit = (rows[f"cifar10_fast: {what}, compiled"] for what in ("the network alone", "fit"))
    assert fit["figure"] > 0
    assert fit["limit"] == alone["figure"]
    assert said.count("\n| ") == len(rows) + 1  # and the heading
    assert {"no GPU"} == {row["note"] for row in rows.values() if row["figure"] is None}


def test_a_trace_is_counted_by_batch_and_overlapping_kernels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    counted = importlib.import_module("gpu_fit").counted

    def span(cat: str, name: str, ts: float, dur: float) -> dict:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    trace = [
        *(span("cuda_runtime", "cudaLaunchKernel", start, 1) for start in range(4)),
        span("cuda_driver", "cuLaunchKernelEx", 9, 1),
        span("cuda_runtime", "cudaGraphLaunch", 10, 1),
        span("cuda_runtime", "cudaStreamSynchronize", 11, 1),
        span("cuda_runtime", "cudaDeviceSynchronize", 12, 1),  # the profiler's own
        span("kernel", "gemm", 100, 50),
        span("kernel", "beside it", 120, 60),  # 30 µs alone
        span("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 300, 20),
        span("gpu_user_annotation", "Optimizer.step", 0, 1000),  # spans kernels, is none
        {"ph": "i", "cat": "kernel", "name": "no span", "ts": 5},
    ]
    assert counted(trace, 2) == {
        "kernel launches": 2.5,
        "graph launches": 0.5,
        "waits": 0.5,
        "copies to the host": 0.5,
        "pageable copies": 0.5,
        "busy seconds": 50e-6,
    }
