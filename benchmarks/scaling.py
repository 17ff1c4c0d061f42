"""Several ranks beside one process: images per second, bytes on the wire, memory; and what a checkpoint costs.

    python benchmarks/scaling.py            # about five minutes on two cores

Every run is the training of cifar10_fast.yaml, on procedural images, through the command line. Two ranks of one thread
each are set against one process of two threads, at the same global batch. Bytes are what the loopback device carried
(/proc/net/dev) in ten steps, set against the cost model of docs/scaling.md. Fails when two ranks reach less than 0.9 of
one process's images per second, the bytes are off the model by a fifth, or checkpoints take more than 1 % of the time
at their default interval.
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
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
VIEWS, BATCH, HIDDEN, WIDTH = 2, 256, 512, 128  # of cifar10_fast.yaml; of the head's layers
FIT = [
    *(sys.executable, "-m", "simmim_pl", "fit", f"--config={ROOT / 'configs/cifar10_fast.yaml'}"),
    *("--trainer.limit_val_batches=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--trainer.callbacks=simmim_pl.callbacks.Checkpoint", "--trainer.callbacks+=simmim_pl.callbacks.Dashboard"),
    *("--trainer.callbacks.every=5", "--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false"),
    *("--trainer.max_epochs=100", "--data.source=simmim_pl.data.Shapes"),
]


def loopback() -> int:
    """Bytes that the loopback device has carried so far."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def run(ranks: int, threads: int, steps: int, *more: str) -> tuple[float, int, float]:
    """Median images per second, bytes on the loopback device, and the greatest rank's peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [*FIT, f"--trainer.max_steps={steps}", f"--runs={folder}", *more]
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


def predicted_bytes(ranks: int) -> float:
    """Bytes that all ranks together send in a step: gradients, projections, BatchNorm, and small change."""
    from simmim_pl.encoders import FastCNN
    from simmim_pl.heads import ProjectionHead

    encoder = FastCNN(32)
    parts = [*encoder.parameters(), *ProjectionHead(encoder.width, HIDDEN, WIDTH).parameters()]
    channels = sum(part.num_features for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d))
    reduced = 4 * sum(parameter.numel() for parameter in parts)  # DDP's all-reduce of gradients
    reduced += 4 * VIEWS * BATCH * WIDTH  # the gather's backward
    reduced += 2 * 4 * channels  # BatchNorm's two sums backwards
    gathered = 2 * 4 * VIEWS * BATCH * WIDTH  # projections, for the loss and for the contrastive accuracy
    gathered += 2 * 4 * channels * ranks  # BatchNorm's mean and variance forwards
    buffers = 4 * (2 * channels + 6) + 8 * len([1 for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    return 2 * (ranks - 1) * reduced + (ranks - 1) * (gathered + buffers)


def checkpoint_seconds() -> dict[str, tuple[float, float]]:
    """Megabytes and median seconds of writing a checkpoint's weights and Adam's two moments, by network."""
    from simmim_pl.durable import DurableIO
    from simmim_pl.encoders import FastCNN, ResNet

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
    one, two = [], []
    for _ in range(3):  # by turns, for the machine's speed changes
        one.append(run(1, 2, 30)[0])
        two.append(run(2, 1, 30)[0])
    ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
    print(f"one process of two threads: {statistics.median(one):,.0f} images/s")
    print(f"two ranks of one thread each: {statistics.median(two):,.0f} images/s, {ratio:.2f} of one process")
    unsynchronised = run(2, 1, 30, "--model.synchronise=false")[0]
    print(f"  without synchronised BatchNorm: {unsynchronised:,.0f} images/s")
    good = ratio >= 0.9
    for ranks in (2, 3, 4):
        batch = ["--data.batch_size=252"] if ranks == 3 else []
        (_, few, _), (_, many, memory) = run(ranks, 1, 10, *batch), run(ranks, 1, 20, *batch)
        bytes_a_step, model = (many - few) / 10, predicted_bytes(ranks)
        good &= abs(bytes_a_step / model - 1) < 0.2
        wire = f"{bytes_a_step / 1e6:.2f} MB a step on the wire, model {model / 1e6:.2f}"
        print(f"{ranks} ranks: {wire}; {memory:,.0f} MB a rank")
    for name, (size, seconds) in checkpoint_seconds().items():
        share = seconds / (15 * 60)
        good &= share < 0.01
        print(f"checkpoint of {name}: {size:,.0f} MB in {seconds:.3f} s, {100 * share:.3f} % of a quarter of an hour")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
