"""Speed of the package's CPU layers in bfloat16: forward and backward of encoders with them and with torch's.

    python benchmarks/bfloat16.py            # three minutes on two cores

The encoders of cifar10_fast.yaml and cifar10.yaml on a batch of their views, channels last, and two ViTs, in bfloat16
and float32, alternating; the fastest of five each. A run in float32 uses torch's layers; here it shows that the others
are not used. Fails if an encoder is slower with them by 3 %.
"""

from __future__ import annotations

import copy
import os
import sys
import time

import torch
from torch import nn

from simmim_pl.cpu.bfloat16 import convert_slow_layers
from simmim_pl.cpu.malloc import configure_malloc
from simmim_pl.encoders import FastCNN, ResNet, ViT

ENCODERS = {
    "FastCNN, width 64, 2048 features, 512 views of 20×20": (FastCNN(64, features=2048), 512, 20),
    "the same, 512 views of 28×28": (FastCNN(64, features=2048), 512, 28),
    "ResNet-18, 256 views of 32×32": (ResNet(18), 256, 32),
    "ViT, width 128, depth 6, 64 patches, 128 images": (ViT(32, 4, width=128, depth=6, num_heads=4), 128, 32),
    "ViT-Tiny, 256 patches, 32 images": (ViT(32, 2), 32, 32),
}


def seconds(encoder: nn.Module, views: torch.Tensor, dtype: torch.dtype) -> float:
    """Seconds of forward and backward."""
    since = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = encoder(views).pooled.float().square().mean()
    loss.backward()
    encoder.zero_grad()
    return time.perf_counter() - since


def main() -> int:
    configure_malloc(keep=True)  # like the command line
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n| | torch's | ours | |\n|---|---:|---:|---:|")
    least = 1.0
    for name, (plain, number, size) in ENCODERS.items():
        plain.to(memory_format=torch.channels_last)
        ours, views = copy.deepcopy(plain), torch.rand(number, 3, size, size)
        convert_slow_layers(ours)
        for dtype in (torch.bfloat16, torch.float32):
            taken = [[seconds(encoder, views, dtype) for encoder in (plain, ours)] for _ in range(6)]
            theirs, own = (min(column) for column in zip(*taken[1:], strict=True))
            print(f"| {name}, {str(dtype)[6:]} | {theirs:.3f} s | {own:.3f} s | {theirs / own:.2f} |", flush=True)
            least = min(least, theirs / own)
    return 0 if least >= 0.97 else 1


if __name__ == "__main__":
    sys.exit(main())
