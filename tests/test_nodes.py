"""Two nodes, as two torchrun agents on the loopback device: the same training, also when an agent is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.forked import Program, environment
from tests.ranks import free_port, run
from tests.runtime.test_resume import LONGER, assert_same, ending, only_run
from tests.test_parity import BASE, DOUBLE, difference


def agent(port: int, host: bool, args: list[str], folder: Path) -> Program:
    """One node with one device and up to three restarts, in its own process group."""
    node = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=tests"]
    node += [f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-conf=is_host={int(host)}", "--local-addr=127.0.0.1"]
    devices = ["--trainer.strategy=ddp", "--trainer.devices=1", "--trainer.num_nodes=2"]
    # Otherwise a surviving agent announces its address only once, and a restarted agent waits for it in vain.
    own = environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    return Program("torch.distributed.run", [*node, "-m", "simmim_pl", *args, *devices], folder, own)


def finished(agents: list[Program]) -> None:
    """Wait for the agents to succeed; end them in any case."""
    try:
        codes = [each.wait(timeout=180) for each in agents]
    finally:
        for each in agents:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
    logs = "\n".join(each.said()[1][-3000:] for each in agents)
    assert codes == [0] * len(agents), logs


def test_two_nodes_train_like_one_process(tmp_path: Path) -> None:
    args, port = [*BASE, DOUBLE, "--name=0"], free_port()
    finished([agent(port, host, [*args, "--runs=two"], tmp_path) for host in (True, False)])
    run(1, [[*args, "--runs=one"]], tmp_path)
    one, two = (tmp_path / f"{runs}/0" for runs in ("one", "two"))
    weights = [torch.load(next(path.glob("*/checkpoints/last.ckpt")), weights_only=True) for path in (one, two)]
    assert difference(*(each["state_dict"] for each in weights)) < 1e-10
    for step, theirs in zip(*(torch.load(next(path.glob("*/journal.pt"))) for path in (one, two)), strict=True):
        assert difference(step["gradients"], theirs["gradients"]) < 1e-10


@pytest.mark.skipif(os.environ.get("LONG") != "1", reason="a minute, until the agent is missed: make test-long")
def test_a_killed_and_restarted_agent_finishes_the_same_run(tmp_path: Path) -> None:
    run(2, [[*LONGER, "--runs=whole"]], tmp_path)
    args, port, runs = [*LONGER, "--runs=runs", "--ckpt_path=last"], free_port(), tmp_path / "runs"
    first, second = (agent(port, host, args, tmp_path) for host in (True, False))
    until = time.monotonic() + 120
    while not list(runs.rglob("last.ckpt")) and time.monotonic() < until:
        time.sleep(0.01)
    # Kill the agent and its worker, which has its own session.
    workers = subprocess.run(["pgrep", "-P", str(second.pid)], capture_output=True, text=True).stdout.split()
    for process in [second.pid, *map(int, workers)]:
        os.kill(process, signal.SIGKILL)
    second.wait()
    assert workers
    assert first.poll() is None
    finished([first, agent(port, False, args, tmp_path)])
    assert_same(ending(only_run(str(tmp_path / "whole"))), ending(only_run(str(runs))))
