"""When a rank is lost, the other ranks report which one and how, and all exit within seconds with code 2.

A killed rank reports nothing; the others only see its connections close. So each rank that exits by itself, or notices
a closed connection, leaves a note in the shared key-value store. A rank without a note was killed. The signal or exit
code is known only to the parent process: with Lightning's launcher that is rank zero, which writes the note for the
killed rank. torchrun reports it itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from lightning.pytorch.strategies.launchers import subprocess_script

from simmim_pl.runtime import distributed

STOPPED, NOTICED = "stopped", "noticed"  # notes of a rank that exits by itself, and of one that saw a closed connection
LAUNCHER_DELAY = 1.5  # seconds after which the parent process has left the note for a killed child
PATIENCE = 5.0  # seconds after which every living rank has noticed a closed connection
PARENT_VARIABLE = "SIMMIM_PARENT"  # environment variable: pid of the parent, if that is a rank too
RESTART_ADVICE = "Start all ranks again; --ckpt_path last resumes the run."
leaving = threading.Event()  # set once this process knows of the loss and exits by itself


def explain(error: BaseException) -> str | None:
    """One sentence if ranks could not connect, or a connection was lost; ``None`` for any other error."""
    if distributed.is_port_in_use(error):
        port, host = os.environ.get("MASTER_PORT"), os.environ.get("MASTER_ADDR")
        return f"Port {port} of {host} is in use: stop what uses it, or set MASTER_PORT to a free one on all ranks."
    if not distributed.is_connection_error(error):
        return None
    ignore_sigterm()
    leaving.set()
    return describe_loss(*collect_notes())


def ignore_sigterm() -> None:
    """Ignore SIGTERM, which torchrun sends to the surviving ranks, until this rank has reported the loss."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def announce_exit() -> None:
    """Leave the note ``STOPPED`` for this rank, unless it has left one already."""
    leaving.set()
    leave_note(distributed.rank(), STOPPED)


def leave_note(rank: int, text: str) -> None:
    """Write a rank's note into the shared store, unless it has one."""
    store = distributed.rendezvous_store()
    with suppress(RuntimeError):  # the store's host exited just now
        if store is not None and not store.check([f"left/{rank}"]):
            store.set(f"left/{rank}", text)


def collect_notes() -> tuple[dict[int, str], list[int]]:
    """Wait for notes of the other ranks.

    Returns:
        The notes of the ranks that exited, and the ranks without any note; both empty if the store is gone.
    """
    mine, began = distributed.rank(), time.monotonic()
    others = set(range(distributed.world_size())) - {mine}
    leave_note(mine, NOTICED)
    while (waited := time.monotonic() - began) < 2 * PATIENCE and (store := distributed.rendezvous_store()):
        with suppress(RuntimeError):  # the store's host exited just now: the next iteration finds no store
            there = [other for other in others if store.check([f"left/{other}"])]
            notes = {other: store.get(f"left/{other}").decode() for other in there}
            left = {other: text for other, text in notes.items() if text != NOTICED}
            silent = sorted(others - notes.keys())
            known = left or (len(silent) == 1 and waited > LAUNCHER_DELAY)
            # Rank zero may host the store, so it waits until all others have read the notes.
            if waited > PATIENCE or (known and (mine > 0 or len(silent) <= (0 if left else 1))):
                return left, silent
        time.sleep(0.05)
    return {}, []


def describe_loss(left: dict[int, str], silent: Sequence[int]) -> str:
    """The sentence that this rank reports.

    Args:
        left: notes of ranks that exited, by rank.
        silent: ranks without a note.

    >>> print(describe_loss({1: "was killed by SIGKILL"}, []))
    Rank 1 was killed by SIGKILL, and rank 0 stops with it. Start all ranks again; --ckpt_path last resumes the run.
    """
    mine = distributed.rank()
    for other, text in left.items():
        if text == STOPPED:
            return f"Rank {other} has stopped, and rank {mine} with it: the messages of rank {other} give the reason."
        return f"Rank {other} {text}, and rank {mine} stops with it. {RESTART_ADVICE}"
    who = " and ".join(f"rank {other}" for other in silent) or "rank 0"
    verb = "are" if len(silent) > 1 else "is"
    how = "killed, for example by SIGKILL when memory runs out" if silent else "killed, or its own message says why"
    return f"{who[0].upper()}{who[1:]} {verb} lost ({how}), and rank {mine} stops with it. {RESTART_ADVICE}"


@contextmanager
def watch_ranks() -> Iterator[None]:
    """In this context, watch the processes that Lightning's launcher starts, and this process's parent if it is a rank.

    Replaces Lightning's own observer, which kills all ranks, itself included, before any can report the loss.
    """

    def observe(child_processes: list[subprocess.Popen]) -> None:
        start_daemon_thread(watch_children, child_processes)

    leaving.clear()
    subprocess_script._launch_process_observer = observe
    before = os.environ.get(PARENT_VARIABLE)
    if before == str(os.getppid()) and os.environ.get("LOCAL_RANK", "0") != "0":  # this process is a launched rank
        start_daemon_thread(watch_parent, os.getppid())
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT_VARIABLE]
        if before is not None:
            os.environ[PARENT_VARIABLE] = before


def start_daemon_thread(work: Callable[..., None], *args: object) -> None:
    """Run a function in a daemon thread."""
    threading.Thread(target=work, args=args, daemon=True).start()


def watch_children(children: Sequence[subprocess.Popen]) -> None:
    """Leave the note for a child that failed; exit too if this process has not noticed the loss by then."""
    while not any(child.poll() for child in children):
        if all(child.returncode == 0 for child in children):
            return
        time.sleep(0.1)
    rank, code = next(
        (i, child.returncode) for i, child in enumerate(children, distributed.rank() + 1) if child.returncode
    )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    leave_note(rank, how)
    if not leaving.wait(2 * PATIENCE):
        for child in children:
            child.kill()
        exit_with_error(describe_loss({rank: how}, []))


def watch_parent(parent: int) -> None:
    """Exit when the parent process is gone and this one has not noticed, for example while it waits for a GPU."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if not leaving.wait(2 * PATIENCE):
        exit_with_error(describe_loss({}, []))


def exit_with_error(sentence: str) -> None:
    """Print an error and exit with code 2 at once, also while the main thread is blocked."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(2)
