"""A killed rank is named by the others, with the signal if known; all exit soon with code 2."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from simmim_pl.runtime import lost_ranks
from tests.conftest import TINY
from tests.forked import Program, environment
from tests.ranks import free_port, start
from tests.runtime.test_resume import LONG

AGAIN = "Start all ranks again; --ckpt_path last resumes the run."
# A long training; a checkpoint after the first epoch shows that it runs.
FOREVER = [*TINY, "--trainer.max_epochs=100000", "--trainer.check_val_every_n_epoch=100000", "--data.batch_size=30"]
# A rank that records its exit code.
RANK = """
import os, pathlib, sys
from simmim_pl.command.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    pathlib.Path(f"code{os.environ['RANK']}").write_text(str(end.code))
    raise
"""


def trains(folder: Path, process: Program) -> None:
    """Wait until a run has saved a checkpoint."""
    until = time.monotonic() + 180
    while not list(folder.rglob("last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def children(process: Program) -> list[int]:
    """The Python child processes of a process, the oldest first."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "python"], capture_output=True, text=True).stdout
    return sorted(map(int, found.split()))


def gone(pid: int) -> bool:
    """Whether a process has ended or is a zombie."""
    try:
        if not Path("/proc").is_dir():
            os.kill(pid, 0)
            return False
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def sentences(text: str) -> list[str]:
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("victim", [1, 0] if LONG else [1])
def test_a_lost_rank_under_lightnings_launcher(tmp_path: Path, victim: int) -> None:
    args = [*FOREVER, "--trainer.strategy=ddp", "--trainer.devices=2", f"--runs={tmp_path}/runs"]
    first = Program("simmim_pl", args, tmp_path, environment())
    try:
        trains(tmp_path, first)
        (second,) = children(first)
        os.kill(second if victim else first.pid, signal.SIGKILL)
        assert first.wait(30) == (2 if victim else -signal.SIGKILL)
        until = time.monotonic() + 30
        while not gone(second):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        first.kill()
    said = {
        1: f"error: Rank 1 was killed by SIGKILL, and rank 0 stops with it. {AGAIN}",
        0: f"error: Rank 0 is lost (killed, or its own message says why), and rank 1 stops with it. {AGAIN}",
    }
    assert sentences(first.said()[1]) == [said[victim]]


@pytest.mark.parametrize("victim", [1, 0] if LONG else [1])
def test_a_lost_rank_under_torchrun(tmp_path: Path, victim: int) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    agent = ["--nproc-per-node=2", f"--master-port={free_port()}", "--redirects=3", f"--log-dir={tmp_path}/logs"]
    args = [*FOREVER, "--trainer.strategy=ddp", "--trainer.devices=2", f"--runs={tmp_path}/runs"]
    first = Program("torch.distributed.run", [*agent, "rank.py", *args], tmp_path, environment())
    try:
        trains(tmp_path, first)
        os.kill(children(first)[victim], signal.SIGKILL)
        assert first.wait(60) != 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    (log,) = tmp_path.glob(f"logs/*/*/{1 - victim}/stderr.log")
    how = "killed, for example by SIGKILL when memory runs out"
    assert sentences(log.read_text()) == [
        f"error: Rank {victim} is lost ({how}), and rank {1 - victim} stops with it. {AGAIN}"
    ]
    assert (tmp_path / f"code{1 - victim}").read_text() == "2"


@pytest.mark.skipif(not LONG, reason="three processes: make test-long")
def test_all_remaining_ranks_name_the_same_lost_rank(tmp_path: Path) -> None:
    ranks = start(3, [FOREVER], tmp_path)
    trains(tmp_path, ranks[0])
    ranks[1].kill()
    try:
        said = [process.communicate(timeout=30)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [2, -signal.SIGKILL, 2]
    for mine in (0, 2):
        (sentence,) = sentences(said[mine])
        assert sentence.startswith("error: Rank 1 is lost (killed, for example by")
        assert sentence.endswith(f"and rank {mine} stops with it. {AGAIN}")


@pytest.mark.parametrize(
    ("ranks", "mine", "notes", "says"),
    [
        (2, 0, {1: "was killed by SIGSEGV"}, "Rank 1 was killed by SIGSEGV, and rank 0 stops with it. "),
        (2, 1, {0: "stopped"}, "Rank 0 has stopped, and rank 1 with it: the messages of rank 0 give the reason."),
        (
            3,
            1,
            {0: "noticed", 2: "stopped"},
            "Rank 2 has stopped, and rank 1 with it: the messages of rank 2 give the reason.",
        ),
        (3, 2, {0: "noticed"}, "Rank 1 is lost (killed, for example by"),
        (3, 2, {1: "was killed by SIGBUS"}, "Rank 1 was killed by SIGBUS, and rank 2 stops with it. "),
        (3, 2, {}, "Rank 0 and rank 1 are lost (killed, for example by"),
        (2, 1, None, "Rank 0 is lost (killed, or its own message says why), and rank 1 stops with it. "),
    ],
)
def test_messages_from_the_records_of_other_ranks(
    monkeypatch: pytest.MonkeyPatch, ranks: int, mine: int, notes: dict[int, str] | None, says: str
) -> None:
    store = None if notes is None else dist.HashStore()
    for rank, text in (notes or {}).items():
        store.set(f"left/{rank}", text)
    monkeypatch.setattr("simmim_pl.runtime.distributed.rank", lambda: mine)
    monkeypatch.setattr("simmim_pl.runtime.distributed.world_size", lambda: ranks)
    monkeypatch.setattr("simmim_pl.runtime.distributed.rendezvous_store", lambda: store)
    monkeypatch.setattr(lost_ranks, "LAUNCHER_DELAY", 0.1)
    monkeypatch.setattr(lost_ranks, "PATIENCE", 0.5)
    assert lost_ranks.describe_loss(*lost_ranks.collect_notes()).startswith(says)
    if store is not None:
        lost_ranks.announce_exit()
        assert store.get(f"left/{mine}") == b"noticed"  # which stays


def test_rank_zero_stays_until_all_ranks_have_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    store.set("left/1", "was killed by SIGKILL")
    monkeypatch.setattr("simmim_pl.runtime.distributed.rank", lambda: 0)
    monkeypatch.setattr("simmim_pl.runtime.distributed.world_size", lambda: 3)
    monkeypatch.setattr("simmim_pl.runtime.distributed.rendezvous_store", lambda: store)
    later = threading.Timer(0.4, store.set, ("left/2", "noticed"))
    since = time.monotonic()
    later.start()
    assert lost_ranks.collect_notes() == ({1: "was killed by SIGKILL"}, [])
    assert 0.4 <= time.monotonic() - since < lost_ranks.PATIENCE
    later.join()


@pytest.mark.parametrize(("local_rank", "watched"), [("1", True), ("0", False), (None, False)])
def test_only_ranks_watch_their_parent_process(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, watched: bool
) -> None:
    """Other processes may have that variable too: those that a run has started to outlive it."""
    threads: list[Any] = []
    monkeypatch.setattr(lost_ranks, "start_daemon_thread", lambda work, *args: threads.append((work, args)))
    monkeypatch.setenv(lost_ranks.PARENT_VARIABLE, str(os.getppid()))
    monkeypatch.setenv("LOCAL_RANK", local_rank or "")
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK")
    with lost_ranks.watch_ranks():
        assert os.environ[lost_ranks.PARENT_VARIABLE] == str(os.getpid())
    assert os.environ[lost_ranks.PARENT_VARIABLE] == str(os.getppid())
    assert threads == ([(lost_ranks.watch_parent, (os.getppid(),))] if watched else [])


def test_a_blocked_process_is_ended_with_its_children() -> None:
    """Like a process whose GPU waits for a lost rank: nothing is raised."""
    script = """if True:
        import os, signal, subprocess, sys, time
        from simmim_pl.runtime import lost_ranks
        lost_ranks.PATIENCE = 0.2
        if sys.argv[1:]:
            lost_ranks.watch_ranks().__enter__()
            print(os.getpid(), flush=True)
            time.sleep(60)
        os.environ[lost_ranks.PARENT_VARIABLE] = str(os.getpid())
        os.environ["LOCAL_RANK"] = "1"
        me = [sys.executable, "-c", os.environ["SCRIPT"], "child"]
        first = subprocess.Popen(me, stdout=subprocess.PIPE)
        first.stdout.readline()
        other = subprocess.Popen(["sleep", "60"])
        print(other.pid, flush=True)
        lost_ranks.start_daemon_thread(lost_ranks.watch_children, [subprocess.Popen(["sleep", "60"]), other])
        other.send_signal(signal.SIGSEGV)
        time.sleep(60)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**environment(), "SCRIPT": script},
        timeout=50,
    )
    assert done.returncode == 2
    assert sorted(done.stderr.splitlines()) == [
        f"error: Rank 0 is lost (killed, or its own message says why), and rank 0 stops with it. {AGAIN}",  # the child
        f"error: Rank 2 was killed by SIGSEGV, and rank 0 stops with it. {AGAIN}",
    ]
