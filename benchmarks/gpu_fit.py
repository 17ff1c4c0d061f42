"""A part of gpu.py: timing of fit on one device, and the profiler's counts of some batches."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from gpu_table import ROOT
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from simmim_pl.data.source import InMemory, Source

KERNELS = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # the profiler itself calls cudaDeviceSynchronize
ON_THE_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


class Images(Source):
    """Random images of CIFAR-10's size: an 8×8 pattern for every class, with noise in every pixel.

    Args:
        train: number of training images.
        test: number of test images.
    """

    def __init__(self, train: int = 50_000, test: int = 10_000) -> None:
        self.numbers = {"train": train, "test": test}
        self.classes = [f"pattern {number}" for number in range(10)]

    def load(self, split: str) -> InMemory:
        """One split, generated once per process."""
        return drawn(self.numbers[split], int(split == "test"))


@functools.cache
def drawn(number: int, seed: int) -> InMemory:
    """Images of ten classes, the same for the same seed."""
    patterns = torch.randint(0, 128, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    patterns = patterns.repeat_interleave(4, 2).repeat_interleave(4, 3)
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(number) % 10
    noise = torch.randint(0, 128, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return InMemory(noise + patterns[labels], labels)


@dataclass
class Timed:
    """Results of :class:`Clock`: images and seconds per batch of a warm run, bytes, and a trace of more batches."""

    images: float = 0.0
    seconds: float = 0.0
    memory: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Clock(Callback):
    """Times a warm run, then ends it. Synchronises with the device before the first timed batch and after the last.

    Args:
        warm: batches before timing, for compilation, graph capture and autotuning.
        seconds: how long to time.
        profiled: number of profiled batches afterwards.
    """

    last: ClassVar[Timed]  # of the last run, because the command line creates the callback

    def __init__(self, warm: int = 30, seconds: float = 3.0, profiled: int = 0) -> None:
        self.warm, self.seconds, self.profiled = warm, seconds, profiled
        self.batches, self.since, self.until = 0, 0.0, 0
        Clock.last = Timed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self.batches == self.warm:
            wait(pl_module.device)
            self.since = time.perf_counter()
        elif self.until and self.batches == self.until:
            self.finish(trainer, pl_module.device)
        elif not self.until and self.batches > self.warm and time.perf_counter() - self.since >= self.seconds:
            wait(pl_module.device)
            taken, number = time.perf_counter() - self.since, self.batches - self.warm
            Clock.last.images, Clock.last.seconds = batch["views"].shape[1], taken / number
            self.until = self.batches + self.profiled
            if not self.profiled:
                self.finish(trainer, pl_module.device)
                return
            activity = ProfilerActivity.CUDA if pl_module.device.type == "cuda" else ProfilerActivity.CPU
            self.profiler = profile(activities=[activity])
            self.profiler.start()

    def finish(self, trainer: Trainer, device: torch.device) -> None:
        """Store the results, and end the run."""
        if self.profiled:
            wait(device)
            self.profiler.stop()
            with tempfile.TemporaryDirectory() as folder:
                self.profiler.export_chrome_trace(f"{folder}/trace.json")
                Clock.last.trace = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
        Clock.last.memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        trainer.should_stop = True


def wait(device: torch.device) -> None:
    """Synchronise with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def command(arguments: Iterable[str]) -> None:
    """Run the command line in this process, with reset compiler and memory. Raises its error message if it fails."""
    from simmim_pl.command.cli import main

    torch._dynamo.reset()  # otherwise earlier networks would count as recompilations
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(arguments))
        except SystemExit as ended:
            raise RuntimeError(said.getvalue().strip().rpartition("\n")[2]) from ended


def fit(config: str, *arguments: str, alone: bool, **clock: float) -> Timed:
    """Time ``fit`` of a config without validation, with the clock alone or with the default callbacks."""
    with tempfile.TemporaryDirectory() as runs:
        command(
            [
                *("fit", f"--config={ROOT / 'configs' / config}", f"--runs={runs}", *arguments),
                *("--trainer.max_epochs=1000", "--trainer.limit_val_batches=0", "--trainer.precision=bf16-mixed"),
                *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
                *(f"--callbacks.enabled={not alone}", "--trainer.callbacks+=gpu_fit.Clock"),
                *(f"--trainer.callbacks.{name}={value}" for name, value in clock.items()),
            ]
        )
    return Clock.last


def counted(trace: list[dict[str, Any]], batches: int) -> dict[str, float]:
    """Launches, synchronisations and copies per batch, and the seconds in which the GPU was active, on any stream.

    - ``trace``: the events of torch's profiler, in Chrome's format.
    """
    spans = [event for event in trace if event.get("ph") == "X"]
    calls = Counter(event["name"] for event in spans if event.get("cat") in ("cuda_runtime", "cuda_driver"))
    copies = Counter(event["name"] for event in spans if event.get("cat") == "gpu_memcpy")
    busy = covered((event["ts"], event["ts"] + event["dur"]) for event in spans if event.get("cat") in ON_THE_GPU)
    found = {
        "kernel launches": sum(calls[name] for name in KERNELS),
        "graph launches": calls["cudaGraphLaunch"],
        "waits": sum(calls[name] for name in WAITS),
        "copies to the host": sum(number for name, number in copies.items() if "DtoH" in name),
        "pageable copies": sum(number for name, number in copies.items() if "Pageable" in name),
        "busy seconds": busy / 1e6,
    }
    return {name: value / batches for name, value in found.items()}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for begin, finish in sorted(spans):
        total += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return total
