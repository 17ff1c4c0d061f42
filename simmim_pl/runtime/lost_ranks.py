"""When a rank is lost: the others say which, and how, and all of them leave soon with exit code 2.

A rank that is killed says nothing; the others see its connections close. So every rank that leaves for a reason of its
own, or since it noticed that another left, puts a note into the store that all share; who left none was killed. How,
only the process that started it knows: under Lightning's launcher that is rank zero, which watches the others and
notes it. torchrun tells of it by itself.
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

STOPPED, NOTICED = "stopped", "noticed"
NOTED = 1.5  # seconds after which who started a rank has noted how it ended
PATIENCE = 5.0  # seconds until all ranks that live have noticed
PARENT = "SIMMIM_PARENT"  # the process that started this one, if it was such a one itself
AGAIN = "Start all ranks again; with --ckpt_path last they go on."
leaving = threading.Event()  # this process has noticed, and ends by itself


def explain(error: BaseException) -> str | None:
    """One sentence when ranks cannot meet, or one has left the others; nothing for any other error."""
    if distributed.port_in_use(error):
        port, host = os.environ.get("MASTER_PORT"), os.environ.get("MASTER_ADDR")
        return f"Port {port} of {host} is in use: stop what uses it, or set MASTER_PORT to a free one on all ranks."
    if not distributed.broken(error):
        return None
    see_it_out()
    leaving.set()
    return told(*heard())


def see_it_out() -> None:
    """Live on until this rank has said what it knows: torchrun sends SIGTERM to those that are left."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave() -> None:
    """Note that this rank ends, for a reason of its own if it has not noted another."""
    leaving.set()
    note(distributed.rank(), STOPPED)


def note(rank: int, text: str) -> None:
    """Leave a note of a rank where there is none."""
    store = distributed.store()
    with suppress(RuntimeError):  # its host has gone just now
        if store is not None and not store.check([f"left/{rank}"]):
            store.set(f"left/{rank}", text)


def heard() -> tuple[dict[int, str], list[int]]:
    """The notes of the ranks that have left, and which gave no sign of life; none of either without a store."""
    mine, began = distributed.rank(), time.monotonic()
    others = set(range(distributed.world_size())) - {mine}
    note(mine, NOTICED)
    while (waited := time.monotonic() - began) < 2 * PATIENCE and (store := distributed.store()):
        with suppress(RuntimeError):  # its host has gone just now: the next turn finds that
            there = [other for other in others if store.check([f"left/{other}"])]
            notes = {other: store.get(f"left/{other}").decode() for other in there}
            left = {other: text for other, text in notes.items() if text != NOTICED}
            silent = sorted(others - notes.keys())
            known = left or (len(silent) == 1 and waited > NOTED)
            # The store may be rank zero's, which therefore waits until all have noticed.
            if waited > PATIENCE or (known and (mine > 0 or len(silent) <= (0 if left else 1))):
                return left, silent
        time.sleep(0.05)
    return {}, []


def told(left: dict[int, str], silent: Sequence[int]) -> str:
    """What this rank says of the others' notes and silence.

    >>> print(told({1: "was killed by SIGKILL"}, []))
    Rank 1 was killed by SIGKILL, and rank 0 stops with it. Start all ranks again; with --ckpt_path last they go on.
    """
    mine = distributed.rank()
    for other, text in left.items():
        if text == STOPPED:
            return f"Rank {other} has stopped, and rank {mine} with it: what rank {other} has said tells why."
        return f"Rank {other} {text}, and rank {mine} stops with it. {AGAIN}"
    who = " and ".join(f"rank {other}" for other in silent) or "rank 0"
    verb = "are" if len(silent) > 1 else "is"
    how = "killed without a word, as by SIGKILL when memory runs out" if silent else "killed, or it said why it stopped"
    return f"{who[0].upper()}{who[1:]} {verb} lost ({how}), and rank {mine} stops with it. {AGAIN}"


@contextmanager
def watch() -> Iterator[None]:
    """Within, have the processes that Lightning starts watched here, and this one watch the process that started it.

    Lightning's own observer kills all of them, itself too, before any has said what it knows.
    """

    def observe(child_processes: list[subprocess.Popen]) -> None:
        in_background(watch_children, child_processes)

    leaving.clear()
    subprocess_script._launch_process_observer = observe
    before = os.environ.get(PARENT)
    if before == str(os.getppid()) and os.environ.get("LOCAL_RANK", "0") != "0":  # which Lightning sets in those
        in_background(watch_parent, os.getppid())
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]
        if before is not None:
            os.environ[PARENT] = before


def in_background(work: Callable[..., None], *args: object) -> None:
    """Work in a thread that ends with the process."""
    threading.Thread(target=work, args=args, daemon=True).start()


def watch_children(children: Sequence[subprocess.Popen]) -> None:
    """Note how a rank ended that did not end well; leave with the others if this one has not noticed by then."""
    while not any(child.poll() for child in children):
        if all(child.returncode == 0 for child in children):
            return
        time.sleep(0.1)
    rank, code = next(
        (i, child.returncode) for i, child in enumerate(children, distributed.rank() + 1) if child.returncode
    )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    note(rank, how)
    if not leaving.wait(2 * PATIENCE):
        for child in children:
            child.kill()
        end(told({rank: how}, []))


def watch_parent(parent: int) -> None:
    """Leave when the process that started this one is gone, and this one has not noticed, as in a GPU's kernel."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if not leaving.wait(2 * PATIENCE):
        end(told({}, []))


def end(sentence: str) -> None:
    """End this process whatever it waits for."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(2)
