"""A step of Muon, ours compared with timm's, on the parameters of ``cifar10_fast.yaml``'s network.

python benchmarks/muon.py
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/muon.py    # like a CPU that emulates bfloat16
"""

import time
from collections.abc import Callable
from typing import Any

import timm
import timm.optim
import torch

from simmim_pl.encoders import FastCNN
from simmim_pl.optimizers import Muon
from simmim_pl.optimizers.muon import working_type

ROUNDS = 5


def step(make: Callable[[Any], torch.optim.Optimizer]) -> Callable[[], Any]:
    """A step with constant gradients."""
    torch.manual_seed(0)
    parameters = list(FastCNN(48).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return make(parameters).step


def main() -> None:
    """Alternate, and print the median of each."""
    steps = {"ours": step(Muon), "timm's": step(lambda parameters: timm.optim.Muon(parameters, nesterov=True))}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, take in steps.items():
            start = time.perf_counter()
            take()
            taken[name] += [time.perf_counter() - start] if turn else []
    for name, seconds in taken.items():
        print(f"{name:>7}: {1e3 * sorted(seconds)[ROUNDS // 2]:7.0f} ms a step")
    print(f"ours iterates in {working_type(torch.empty(1))}; torch {torch.__version__}, timm {timm.__version__}")
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    main()
