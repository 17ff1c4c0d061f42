"""The GPU benchmark prints its table even if parts fail, and counts the profiler's trace correctly."""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_sections_can_be_selected_and_the_first_is_measured(
    load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpu, out = load("gpu"), tmp_path / "out.json"
    bench = gpu.Bench(smoke=True)
    assert {job.section for job in bench.jobs()} == set(gpu.SECTIONS)
    gpu.table(bench.jobs(), ["device"], 60, out)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["figure"] > 0
    heading, _, line = capsys.readouterr().out.splitlines()
    assert heading == "| | figure | limit | share |"
    assert line.startswith("| matrix products in bfloat16 | ")


def test_a_failing_or_late_section_has_a_row_and_the_others_continue(
    load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = load("gpu_table")

    def works() -> Iterator[object]:
        yield table.Row("half", 1.5, "s", 3, "is the aim", "a note")

    def fails() -> Iterator[object]:
        yield table.Row("before", note="no GPU")
        raise ValueError("first line\nthis | that")

    jobs = [table.Job("one", "fails", fails), table.Job("one", "works", works), table.Job("other", "works", works)]
    table.table(jobs, ["one"], 60, tmp_path / "out.json")
    table.table(jobs, ["other"], 0, None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:3] not in ("| |", "|--")]
    assert lines == [
        "| before | no GPU |  |  |",
        "| fails | ValueError: this / that |  |  |",
        "| half | 1.5 s; a note | 3, is the aim | 50 % |",
        "| works | skipped, the time limit was reached |  |  |",
    ]
    assert [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == [
        "before",
        "fails",
        "half",
    ]


def test_a_trace_is_counted_per_batch_with_overlapping_kernels_once(load: Callable[[str], ModuleType]) -> None:
    counted = load("gpu_fit").counted

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
        span("gpu_user_annotation", "Optimizer.step", 0, 1000),  # spans kernels but is not one
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
