"""Several ranks compared with one process: images per second, bytes sent, memory; and the cost of a checkpoint.

    python benchmarks/scaling.py            # about eight minutes on two cores

Every run trains on procedural images through the command line. Two ranks of one thread each are compared with
one process of two threads, at the same global batch, for the network of cifar10.yaml and that of cifar10_fast.yaml,
which computes a quarter as much per message. Then the cost model of docs/scaling.md is compared with 1 to 4 ranks
of one thread each, training cifar10_fast.yaml: bytes are those on the loopback device (/proc/net/dev) in ten steps;
memory is the peak of a rank, with the baseline from a run with a small batch; images per second
follow from the speed of one process of one thread, and from the cost of messages between computing ranks, which
is measured. Fails if two ranks of cifar10.yaml reach less than 0.9 of one process's images per second, the bytes are
off the model by 5 %, memory by 15 %, images per second by 25 %, or checkpoints take more than 1 % of the time at their
default interval.
"""

from __future__ import annotations

import csv
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cost_model import Cost, cost

ROOT = Path(__file__).parents[1]
CONFIG, BATCH, SMALL = ROOT / "configs/cifar10_fast.yaml", 256, 16
REFERENCE = ROOT / "configs/cifar10.yaml"
FIT = [
    "--trainer.precision=bf16-mixed",
    *("--trainer.limit_val_batches=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--callbacks.enabled=false", "--trainer.callbacks=simmim_pl.callbacks.Checkpoint"),
    *("--trainer.callbacks+=simmim_pl.callbacks.TrainingMonitor"),
    *("--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false"),
    *("--trainer.max_epochs=100", "--data.source=simmim_pl.data.Shapes", "--data.final_views=null"),
]


def loopback() -> int:
    """Bytes on the loopback device so far."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def run(ranks: int, threads: int, steps: int, *more: str, config: Path = CONFIG) -> tuple[float, int, float]:
    """Median images per second, bytes on the loopback device, and the largest peak memory of a rank in MB."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "simmim_pl", "fit", f"--config={config}", *FIT, *more]
        command += [f"--trainer.max_steps={steps}", f"--runs={folder}"]
        common = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        if ranks > 1:
            command += ["--trainer.strategy=ddp", f"--trainer.devices={ranks}"]
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
            common |= {"TORCHELASTIC_RUN_ID": "benchmark", "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        before = loopback()
        places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {} for rank in range(ranks)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [subprocess.Popen(command, env=common | place, cwd=folder, **quiet) for place in places]  # type: ignore[call-overload]
        usage = [os.wait4(process.pid, 0) for process in processes]
        assert all(status == 0 for _, status, _ in usage), usage
        carried = loopback() - before
        (log,) = Path(folder).glob("*/*/metrics.csv")
        with log.open(newline="") as file:
            rates = [
                float(row["train/images_per_second"]) for row in csv.DictReader(file) if row["train/images_per_second"]
            ]
    return statistics.median(rates[1:]), carried, max(used.ru_maxrss for *_, used in usage) / 1024


def messages(ranks: int, between: float) -> tuple[float, float]:
    """Seconds per small message between computing ranks, and bytes/s in an all-reduce of 8 MB.

    Computing ranks never reach a message at the same time, especially if they share cores: the message waits for the
    last of them.

    - ``between``: seconds of computation on one core between messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(exchange, (ranks, between, folder), nprocs=ranks)
        latency, bandwidth = torch.load(Path(folder, "found"))
    return latency, bandwidth


def exchange(rank: int, ranks: int, between: float, folder: str) -> None:
    """One rank of :func:`messages`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=ranks)
    matrix, small, large = torch.rand(256, 256), torch.ones(16), torch.ones(2_000_000)

    def compute() -> None:
        until = time.process_time() + between  # of this process's CPU time, whatever else runs on the core
        while time.process_time() < until:
            matrix @ matrix

    def seconds(work: Callable[[], object], times: int) -> float:
        dist.barrier()
        since = time.perf_counter()
        for _ in range(times):
            work()
        dist.barrier()
        return (time.perf_counter() - since) / times

    alone = seconds(compute, 100)
    waiting = seconds(lambda: (compute(), dist.all_reduce(small)), 100) - alone
    reduced = seconds(lambda: dist.all_reduce(large), 20)
    if rank == 0:
        torch.save((max(waiting, 0.0), 2 * (ranks - 1) * 8e6 / reduced), Path(folder, "found"))
    dist.destroy_process_group()


def two_ranks(config: Path, steps: int, *more: str) -> float:
    """Images per second of two ranks of one thread each, relative to one process of two threads."""
    one, two = [], []
    for _ in range(3):  # alternating, because the machine's speed changes
        one.append(run(1, 2, steps, *more, config=config)[0])
        two.append(run(2, 1, steps, *more, config=config)[0])
    ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
    print(f"{config.name}: one process of two threads: {statistics.median(one):,.1f} images/s")
    print(f"  two ranks of one thread each: {statistics.median(two):,.1f} images/s, {ratio:.2f} of one process")
    unsynchronised = run(2, 1, steps, *more, "--model.sync_batchnorm=false", config=config)[0]
    print(f"  and without synchronised BatchNorm: {unsynchronised:,.1f} images/s", flush=True)
    return ratio


def check(model: Cost) -> bool:
    """Compare the model with 1 to 4 ranks."""
    cores = os.cpu_count() or 1
    alone, _, whole = run(1, 1, 20)
    loaded = run(1, 1, 20, f"--data.batch_size={SMALL}")[2] - model.memory(1, SMALL) / 2**20
    speed = alone * (model.flop + model.update / BATCH)
    print(
        f"one process of one thread: {alone:,.0f} images/s, {speed / 1e9:,.0f} GFLOP/s; {whole:,.0f} MB a rank, ",
        end="",
    )
    print(f"model {loaded + model.memory(1, BATCH) / 2**20:,.0f}, of which {loaded:,.0f} MB are loaded in any case")
    good = abs(whole / (loaded + model.memory(1, BATCH) / 2**20) - 1) < 0.15
    for ranks in (2, 3, 4):
        batch = BATCH // ranks * ranks
        few, many = (run(ranks, 1, steps, f"--data.batch_size={batch}") for steps in (10, 20))
        carried, memory, rate = (many[1] - few[1]) / 10, many[2], many[0]
        wire, held = model.wire(ranks, batch), loaded + model.memory(ranks, batch) / 2**20
        between = model.flop * batch / ranks / speed / (2 * model.layers)
        expected = batch / model.seconds(ranks, batch, speed, cores, *messages(ranks, between))
        print(
            f"{ranks} ranks: {carried / 1e6:.2f} MB a step on the wire, model {wire / 1e6:.2f}; {memory:,.0f} MB a "
            f"rank, model {held:,.0f}; {rate:,.0f} images/s, model {expected:,.0f}"
        )
        good &= abs(carried / wire - 1) < 0.05 and abs(memory / held - 1) < 0.15 and abs(rate / expected - 1) < 0.25
    return good


def checkpoint_seconds() -> dict[str, tuple[float, float]]:
    """Megabytes and median seconds of writing a checkpoint's weights and Adam's two moments, by network."""
    from simmim_pl.encoders import FastCNN, ResNet
    from simmim_pl.runtime.atomic import DurableIO

    found = {}
    for name, network in {"FastCNN 32": FastCNN(32), "ResNet-18": ResNet(18), "ResNet-50": ResNet(50)}.items():
        state = {f"{copy}{key}": value.clone() for copy in range(3) for key, value in network.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            seconds = []
            for _ in range(5):
                since = time.perf_counter()
                DurableIO().save_checkpoint(state, Path(folder, "last.ckpt"))
                seconds.append(time.perf_counter() - since)
            found[name] = (Path(folder, "last.ckpt").stat().st_size / 2**20, statistics.median(seconds))
    return found


def main() -> int:
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, gloo on the loopback device")
    ratio = two_ranks(REFERENCE, 12, "--data.batch_size=128")
    two_ranks(CONFIG, 30)
    good = check(cost(CONFIG)) and ratio >= 0.9
    for name, (size, seconds) in checkpoint_seconds().items():
        share = seconds / (15 * 60)
        good &= share < 0.01
        print(f"checkpoint of {name}: {size:,.0f} MB in {seconds:.3f} s, {100 * share:.3f} % of a quarter of an hour")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
