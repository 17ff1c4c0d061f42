"""Run command lines on one or several local ranks, started like torchrun does.

As a program: ``python -m tests.ranks JSON`` runs a list of command lines, one after the other, in one process.
"""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from simmim_pl.runtime import distributed
from tests.forked import Program, environment


class Journal(Callback):
    """Writes loss and gradients of every optimizer step of rank zero to ``RUN/journal.pt``."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        self.steps.append({"gradients": gradients})

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        loss = distributed.all_reduce_mean(outputs["loss"]) * trainer.accumulate_grad_batches
        if self.steps:
            self.steps[-1]["loss"] = loss.item()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir
        if trainer.is_global_zero and folder:
            torch.save(self.steps, Path(folder, "journal.pt"))


class Crashes(Callback):
    """Raises after a number of batches: a quick substitute for a kill."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            raise Killed


class Snapshots(Callback):
    """Copies the runs' files after the given batches: the state that a kill at that moment would leave."""

    def __init__(self, batches: list[int], folder: Path) -> None:
        self.batches, self.folder = batches, folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        batch = trainer.fit_loop.total_batch_idx + 1
        if batch in self.batches and trainer.log_dir:
            shutil.copytree(Path(trainer.log_dir).parents[1], self.folder / f"stopped{batch}")


class Killed(BaseException):
    """Raised by :class:`Crashes`."""


def free_port() -> int:
    """A free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def place(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun sets for a rank."""
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)},
        **{"GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"},
    }


def start(ranks: int, lines: list[list[str]], folder: Path, port: int | None = None) -> list[Program]:
    """Start processes, each of which runs all command lines in turn as one rank."""
    port = port or free_port()
    lines = [[str(arg) for arg in line] for line in lines]
    if ranks > 1:
        lines = [[*line, "--trainer.strategy=ddp", f"--trainer.devices={ranks}"] for line in lines]
    places = [place(rank, ranks, port) if ranks > 1 else {} for rank in range(ranks)]
    return [Program("tests.ranks", [json.dumps(lines)], folder, environment(**each)) for each in places]


def run(ranks: int, lines: list[list[str]], folder: Path) -> None:
    """Run command lines on ranks, and check that all succeed."""
    processes = start(ranks, lines, folder)
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, said, strict=True):
        assert process.returncode == 0, error


if __name__ == "__main__":
    import simmim_pl.command.cli

    for each in json.loads(sys.argv[1]):
        simmim_pl.command.cli.main(each)
