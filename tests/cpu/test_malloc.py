"""Freed memory is reused without page faults, if the C library supports it."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simmim_pl.cpu import malloc
from tests.conftest import CONFIGS, EVALUATION, TINY

PROGRAM = """
import resource, sys, torch
from simmim_pl.cpu.malloc import configure_malloc
told = None if sys.argv[1] == "as it is" else configure_malloc(keep=sys.argv[1] == "keep")
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(30):
    before = before if step > 20 else faults()
    torch.ones(2**24)
print(told, faults() - before)
"""


def faults(how: str, **variables: str) -> tuple[str, int]:
    """The settings of a new process, and its page faults when it repeatedly writes 64 MB ten times."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**environment, **variables},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    told, number = done.stdout.split()
    return told, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_kept_memory_causes_page_faults_only_once() -> None:
    usual, kept = faults("as it is"), faults("keep")
    assert kept[0] == "True"
    assert kept[1] < 100 < usual[1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_the_users_settings_are_not_changed() -> None:
    assert faults("keep", MALLOC_ARENA_MAX="4")[0] == "False"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_memory_is_returned_when_requested() -> None:
    assert faults("return")[1] > 10 * 10_000  # ten times 64 MB, in pages of 4 kB


def test_other_c_libraries_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert malloc.configure_malloc(keep=True) is False


@pytest.mark.parametrize(("pieces", "keep"), [(1, True), (2, False)])
def test_memory_is_kept_unless_the_gradient_cache_is_on(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch, pieces: int, keep: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(malloc, "configure_malloc", lambda keep: asked.append(keep))
    cli([*TINY, f"--model.gradient_cache={pieces}", "--trainer.max_steps=1"])
    assert asked == [keep]


def test_evaluations_keep_memory_too(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch, pretrained: Path
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(malloc, "configure_malloc", lambda keep: asked.append(keep))
    cli(["validate", f"--config={CONFIGS / 'evaluate/knn.yaml'}", f"--model.checkpoint={pretrained}", *EVALUATION])
    assert asked == [True]
