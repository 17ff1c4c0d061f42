"""NT-Xent forward and backward beside lightly's, time and extra memory; each in a process of its own.

    python benchmarks/nt_xent.py                  # 2 × 16,384 × 128, lightly needs 17 GB; then ours at 2 × 65,536
    python benchmarks/nt_xent.py --images 4096    # smaller, for a smaller machine

Fails when ours is not 5 times faster, needs more than 300 MB extra, or finds another loss.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time

import torch

WIDTH, TEMPERATURE = 128, 0.5


def measure(which: str, images: int) -> None:
    """Print loss, seconds and the growth of this process's peak memory, in MB."""
    if which == "ours":
        from simmim_pl.losses import nt_xent

        def loss_of(z: torch.Tensor) -> torch.Tensor:
            return nt_xent(z, TEMPERATURE)
    else:
        from lightly.loss import NTXentLoss

        peer = NTXentLoss(TEMPERATURE)

        def loss_of(z: torch.Tensor) -> torch.Tensor:
            return peer(z[0], z[1])

    loss_of(torch.randn(2, 8, WIDTH, requires_grad=True)).backward()  # what is loaded once is not counted
    z = torch.randn(2, images, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    loss = loss_of(z)
    loss.backward()
    seconds = time.perf_counter() - since
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(loss.item(), seconds, extra)


def run(which: str, images: int) -> tuple[float, float, float]:
    command = [sys.executable, __file__, "--measure", which, "--images", str(images)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    loss, seconds, extra = map(float, said.split())
    print(f"{which:8} 2 × {images:,} × {WIDTH}: {seconds:7.2f} s, {extra:8,.0f} MB extra, loss {loss:.6f}", flush=True)
    return loss, seconds, extra


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16384)
    parser.add_argument("--measure", choices=["ours", "lightly"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.images)
        return 0
    print(f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, float32")
    loss, seconds, extra = run("ours", args.images)
    their_loss, their_seconds, their_extra = run("lightly", args.images)
    print(f"ours is {their_seconds / seconds:.1f} times faster in 1/{their_extra / max(extra, 1):.0f} of the memory")
    run("ours", 4 * args.images)
    good = their_seconds >= 5 * seconds and extra <= 300 and abs(loss - their_loss) < 1e-4
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
