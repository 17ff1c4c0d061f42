"""Python programs that start quickly: forks of a process that has already imported torch and Lightning.

These imports take seconds, and the tests start dozens of programs. The forked process is
multiprocessing's fork server: one for each pytest process, which imports and does nothing else, so it has no threads.
It imports neither W&B, whose temporary folder the first program to end would delete for all, nor this package.
"""

import atexit
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from lightning.pytorch.utilities.rank_zero import rank_zero_only

ROOT = Path(__file__).parents[1]
PATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
PR_SET_PDEATHSIG = 1
OUTPUTS = ("stdout", "stderr")
CONTEXT = multiprocessing.get_context("forkserver")
LIBRARIES = ["lightning.pytorch.cli", "torchvision.ops", "torch._dynamo", "matplotlib.figure", "jinja2"]
CONTEXT.set_forkserver_preload([*LIBRARIES, "jaxtyping", "beartype", "hypothesis", "pytest"])


def start_server() -> None:
    """Start the server in a folder where its imports are found."""
    with patch.dict(os.environ, {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()


def environment(**more: str) -> dict[str, str]:
    """The environment of a program: this one, without W&B settings, with one thread."""
    return {**os.environ, "PYTHONPATH": PATH, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **more}


def become(
    module: str, args: list[str], place: str, names: dict[str, str], said: Path, first: Callable[[], None] | None
) -> None:
    """Run ``python -m module args`` in this process, in its own session."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not left behind when the tests are killed
    multiprocessing.current_process().daemon = False  # otherwise it could have no data workers
    multiprocessing.set_start_method(None, force=True)  # Python's default for those
    os.environ.clear()
    os.environ.update(names)
    rank_zero_only.rank = int(names.get("RANK", 0))  # which Lightning reads when it is imported
    os.chdir(place)
    sys.path.insert(0, place)
    for number, name in enumerate(OUTPUTS, 1):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = [module, *args]
    if first:
        first()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # Python does this at exit, multiprocessing does not


class Program:
    """``python -m module args`` in a folder, with the parts of :class:`subprocess.Popen` that tests need.

    ``first`` is called before the module is run.
    """

    def __init__(
        self,
        module: str,
        args: list[str],
        folder: Path,
        environment: dict[str, str],
        first: Callable[[], None] | None = None,
    ) -> None:
        start_server()
        self.args = [module, *map(str, args)]
        self.outputs = tempfile.TemporaryDirectory()
        for name in OUTPUTS:
            Path(self.outputs.name, name).touch()
        given = (module, self.args[1:], str(folder), environment, Path(self.outputs.name), first)
        self.process = CONTEXT.Process(target=become, args=given, daemon=True)
        self.process.start()
        self.pid = self.process.pid
        while (
            self.poll() is None and os.getpgid(self.pid) != self.pid
        ):  # otherwise a signal to its group would reach this process
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; ``subprocess.TimeoutExpired`` after the timeout."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def said(self) -> tuple[str, str]:
        """Stdout and stderr so far."""
        stdout, stderr = (Path(self.outputs.name, name) for name in OUTPUTS)
        return stdout.read_text(), stderr.read_text()

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Stdout and stderr after the program and all its children have ended."""
        until = time.monotonic() + timeout
        self.wait(timeout)
        while subprocess.run(["pgrep", "-s", str(self.pid)], stdout=subprocess.DEVNULL).returncode == 0:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.02)
        return self.said()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
