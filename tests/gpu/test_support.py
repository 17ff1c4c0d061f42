"""Where kernels run; without a GPU their tests run in Triton's interpreter."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from simmim_pl.gpu.support import runs_kernels
from tests.kernels import INTERPRETED

ROOT = Path(__file__).parents[2]
TESTS = [*(f"tests/gpu/test_{name}.py" for name in ("nt_xent", "parameters", "views")), "tests/views/test_fused.py"]


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
@pytest.mark.skipif(torch.cuda.is_available() or INTERPRETED, reason="they are run as they are")
def test_kernels_run_in_tritons_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.findall(r"(\d+) passed", run.stdout)[-1]) > 20


def test_a_cpu_runs_no_kernels() -> None:
    assert not runs_kernels(torch.device("cpu"))


@pytest.mark.parametrize(
    ("triton", "capability", "hip", "runs"),
    [
        (True, (9, 0), None, True),
        (True, (6, 1), None, False),
        (True, (6, 1), "6.2", True),
        (False, (9, 0), None, False),
    ],
)
def test_a_gpu_runs_kernels_with_triton(triton, capability, hip, runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_kernels.cache_clear()
    monkeypatch.setattr("simmim_pl.gpu.support.find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.version.hip", hip)
    assert runs_kernels(torch.device("cuda", 0)) == runs
    runs_kernels.cache_clear()


@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="no compiler")
@pytest.mark.parametrize("name", ["one_view", "draw_rows"])
def test_a_kernel_compiles_for_an_h100_without_one(name: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    from simmim_pl.gpu import parameters, views

    kernel = {"one_view": views.one_view, "draw_rows": parameters.draw_rows}[name]
    sizes = {"SIZE": 32, "CUT": True, "TILE": 512, "ROWS": 32}
    pointers = dict.fromkeys(("parameters", "views", "between", "numbers", "settings", "drawn"), "*fp32")
    types = pointers | {"image": "*u8"} | dict.fromkeys(sizes, "constexpr")
    signature = {each: types.get(each, "i32") for each in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, {each: sizes[each] for each in sizes if each in signature})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compiled.metadata.shared <= 1024  # per program, so that many run at once on a multiprocessor
