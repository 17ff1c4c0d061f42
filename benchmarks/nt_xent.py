"""NT-Xent forward and backward compared with other implementations: time and extra memory.

    python benchmarks/nt_xent.py                  # a CPU: 2 × 16,384, lightly needs 17 GB; then ours at 2 × 65,536
    python benchmarks/nt_xent.py --images 4096    # smaller, for a smaller machine
    python benchmarks/nt_xent.py --device cuda    # a GPU: 2 × 512 to 2 × 262,144, in less than a minute
    python benchmarks/nt_xent.py --smoke          # the GPU's table, small, without a GPU

On a CPU each runs in its own process; fails if ours is not 5 times faster, needs more than 300 MB extra, or gives
another loss. On a GPU a peer that would take more than 3 seconds or not fit is skipped. CLIP's loss, OpenCLIP's and
Inf-CL's, is for two views too, but compares an anchor only with the other view of every image: half the similarities.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, TEMPERATURE = 128, 0.5
IMAGES = (512, 4096, 16384, 32768, 65536, 262144)
PATIENCE = 3.0  # seconds per call


def ours() -> Callable[[Tensor], Tensor]:
    from simmim_pl.losses import nt_xent

    return lambda z: nt_xent(z, TEMPERATURE)


def ours_in_torch() -> Callable[[Tensor], Tensor]:
    """The implementation for CPUs and float64."""
    from simmim_pl.gpu import nt_xent as fused

    loss = ours()

    def loss_of(z: Tensor) -> Tensor:
        with patch.object(fused, "serves", return_value=False):
            return loss(z)

    return loss_of


def lightly() -> Callable[[Tensor], Tensor]:
    from lightly.loss import NTXentLoss

    peer = NTXentLoss(TEMPERATURE)
    return lambda z: peer(z[0], z[1])


def open_clip() -> Callable[[Tensor], Tensor]:
    """``open_clip.ClipLoss`` if installed, else its formula: Radford et al. 2021 (arXiv 2103.00020), figure 3."""
    try:
        from open_clip.loss import ClipLoss

        peer = ClipLoss()
    except ImportError:

        def peer(x: Tensor, y: Tensor, scale: float) -> Tensor:
            label = torch.arange(len(x), device=x.device)
            return (F.cross_entropy(scale * x @ y.T, label) + F.cross_entropy(scale * y @ x.T, label)) / 2

    return lambda z: peer(*F.normalize(z, dim=-1), 1 / TEMPERATURE)


def inf_cl() -> Callable[[Tensor], Tensor]:
    """Inf-CL, Cheng et al. 2024 (arXiv 2410.17243): its Triton kernels on one GPU, which round products to TF32."""
    from inf_cl import cal_flash_loss

    def loss_of(z: Tensor) -> Tensor:
        x, y = F.normalize(z, dim=-1)
        pair = [cal_flash_loss(*each, scale=1 / TEMPERATURE, head_dim=WIDTH) for each in ((x, y), (y, x))]
        return torch.stack(pair).mean()

    return loss_of


PEERS = {
    "ours": ours,
    "ours, in torch": ours_in_torch,
    "lightly": lightly,
    "OpenCLIP, half": open_clip,
    "Inf-CL, half": inf_cl,
}


def projections(images: int, device: str = "cpu") -> Tensor:
    return torch.randn(2, images, WIDTH, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()


def measure(which: str, images: int) -> None:
    """Print loss, seconds and the growth of this process's peak memory, in MB."""
    loss_of = PEERS[which]()
    loss_of(torch.randn(2, 8, WIDTH, requires_grad=True)).backward()  # excludes what is loaded once
    z = projections(images)
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


def on_a_cpu(images: int) -> int:
    print(f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, float32")
    loss, seconds, extra = run("ours", images)
    their_loss, their_seconds, their_extra = run("lightly", images)
    print(f"ours is {their_seconds / seconds:.1f} times faster in 1/{their_extra / max(extra, 1):.0f} of the memory")
    run("ours", 4 * images)
    good = their_seconds >= 5 * seconds and extra <= 300 and abs(loss - their_loss) < 1e-4
    return 0 if good else 1


def call(loss_of: Callable[[Tensor], Tensor], z: Tensor, times: int) -> tuple[float, float, float]:
    """The last loss, seconds per call and peak extra memory, in bytes, of a number of calls."""
    before = 0
    if z.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    since = time.perf_counter()
    for _ in range(times):
        z.grad = None
        loss = loss_of(z)
        loss.backward()
    value = loss.item()  # synchronises
    seconds = (time.perf_counter() - since) / times
    z.grad = None
    return value, seconds, float(torch.cuda.max_memory_allocated() - before) if z.is_cuda else 0.0


def column(which: str, device: str, sizes: tuple[int, ...]) -> list[str]:
    """Results of a peer for each size, as long as it fits and is not too slow."""
    try:
        loss_of = PEERS[which]()
        call(loss_of, projections(64, device), 3)  # compile and load first
    except Exception as error:
        return [f"– ({type(error).__name__}: {str(error)[:60]})"] + [""] * (len(sizes) - 1)
    cells, seconds, extra, last = list[str](), 0.0, 0.0, sizes[0]
    for images in sizes:
        more = (images / last) ** 2
        room = torch.cuda.mem_get_info()[0] if device == "cuda" else float("inf")
        if seconds * more > PATIENCE or extra * more > room:
            return [*cells, *["–"] * (len(sizes) - len(cells))]
        z, last = projections(images, device), images
        call(loss_of, z, 1)
        _, once, _ = call(loss_of, z, 1)
        value, seconds, extra = call(loss_of, z, max(1, min(50, int(0.2 / once))))
        cells.append(f"{1e3 * seconds:,.2f} ms, {extra / 1e6:,.0f} MB, {value:.4f}")
        if device == "cuda":
            torch.cuda.empty_cache()
    return cells


def on_a_gpu(device: str, sizes: tuple[int, ...]) -> int:
    """The table: a row per size, a column per peer; time, peak extra memory, loss."""
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"{machine}, torch {torch.__version__}, float32, projections of width {WIDTH}\n")
    columns = {which: column(which, device, sizes) for which in PEERS}
    print("| rows |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for line, images in enumerate(sizes):
        print(f"| 2 × {images:,} |", " | ".join(cells[line] for cells in columns.values()), "|")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16384)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--measure", choices=["ours", "lightly"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.images)
        return 0
    if args.smoke or args.device == "cuda":
        return on_a_gpu("cpu" if args.smoke else "cuda", (64, 256) if args.smoke else IMAGES)
    return on_a_cpu(args.images)


if __name__ == "__main__":
    sys.exit(main())
