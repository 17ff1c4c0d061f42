"""Peak memory and time of a training step with and without the gradient cache, in separate processes.

    python benchmarks/gradient_cache.py    # batch 4,096 in 8 chunks, FastCNN of width 16, two views

Fails if a batch in K chunks needs over 1.3 times the memory of a batch of 1/K the size, or takes over 1.45 times
as long as the whole batch.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

import torch


def measure(batch: int, pieces: int, steps: int) -> None:
    """Print seconds per step and the growth of this process's peak memory in MB, forward and backward."""
    from simmim_pl.cpu.malloc import configure_malloc
    from simmim_pl.encoders import FastCNN
    from simmim_pl.encoders.heads import ProjectionHead
    from simmim_pl.losses import NTXent
    from simmim_pl.methods import Contrastive
    from simmim_pl.methods.gradient_cache import chunked_forward

    configure_malloc(keep=False)  # like the command line when a batch is encoded in pieces
    head = partial(ProjectionHead, hidden_dim=256, output_dim=128)
    module = Contrastive(FastCNN(16), head, NTXent(), optimizer=torch.optim.SGD, channels_last=True)
    before, seconds = 0, []
    for step in range(-1, steps):
        views = torch.rand(
            2, 32 if step < 0 else batch, 3, 32, 32
        )  # the first one loads everything that is loaded once
        since = time.perf_counter()
        run = module.project if pieces == 1 else partial(chunked_forward, module.project, chunks=pieces, network=module)
        module.loss(run(views)[1]).backward()
        del views
        seconds.append(time.perf_counter() - since)
        before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(statistics.median(seconds[1:]), grown)


def run(batch: int, pieces: int, steps: int) -> tuple[float, float]:
    command = [
        sys.executable,
        __file__,
        "--measure",
        "--batch",
        str(batch),
        "--pieces",
        str(pieces),
        "--steps",
        str(steps),
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, megabytes = map(float, said.split())
    print(f"batch {batch:,} in {pieces} pieces: {seconds:.2f} s a step, {megabytes:,.0f} MB", flush=True)
    return seconds, megabytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.batch, args.pieces, args.steps)
        return 0
    print(f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, float32")
    whole = run(args.batch, 1, args.steps)
    cached = run(args.batch, args.pieces, args.steps)
    small = run(args.batch // args.pieces, 1, args.steps)
    slowdown, memory, saved = cached[0] / whole[0], cached[1] / small[1], whole[1] / cached[1]
    print(f"slowdown {slowdown:.2f}; memory {memory:.2f} of the small batch's, 1/{saved:.1f} of the whole's")
    return 0 if slowdown <= 1.45 and memory <= 1.3 else 1


if __name__ == "__main__":
    sys.exit(main())
