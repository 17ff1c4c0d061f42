"""Memory that was freed is used again without a page fault, where the C library can be told so."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simmim_pl import allocator, cli

PROGRAM = """
import resource, sys, torch
from simmim_pl.allocator import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(30):
    before = before if step > 20 else faults()
    torch.ones(2**24)
print(told, faults() - before)
"""


def faults(how: str, **variables: str) -> tuple[str, int]:
    """What a fresh process was told, and its page faults in writing 64 MB ten times, when it has done so before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**environment, **variables},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    told, number = done.stdout.split()
    return told, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_a_process_that_keeps_memory_faults_it_in_once() -> None:
    usual, kept = faults("as it is"), faults("keep")
    assert kept[0] == "True"
    assert kept[1] < 100 < usual[1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_the_users_own_settings_are_left_alone() -> None:
    assert faults("keep", MALLOC_ARENA_MAX="4")[0] == "False"


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert allocator.keep_freed_memory() is False


def test_the_command_line_does_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: asked.append(1))

    def stop(*args: Any, **options: Any) -> None:
        assert asked == [1]
        raise KeyError("enough")

    monkeypatch.setattr(cli, "CLI", stop)
    with pytest.raises(KeyError, match="enough"):
        cli.main([])
