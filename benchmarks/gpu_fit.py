"""A part of gpu.py: fit of the command line on one device, timed; and what the profiler sees of some of its batches."""

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
    """As large as CIFAR-10, and drawn: a pattern of 8×8 for every class, under noise of every pixel.

    Args:
        train: number of training images.
        test: number of test images.
    """

    def __init__(self, train: int = 50_000, test: int = 10_000) -> None:
        self.numbers = {"train": train, "test": test}
        self.classes = [f"pattern {number}" for number in range(10)]

    def load(self, split: str) -> InMemory:
        """One split, drawn once a process."""
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
    """What :class:`Clock` found: of a steady run images and seconds a batch, bytes, and a trace of some more."""

    images: float = 0.0
    seconds: float = 0.0
    memory: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Clock(Callback):
    """Times a run once it is warm, then ends it. The device is waited for before the first batch and after the last.

    Args:
        warm: batches before; the first compiles, captures, and finds what is fast.
        seconds: how long to time.
        profiled: batches that the profiler then looks at.
    """

    last: ClassVar[Timed]  # of the run that ended last, for the command line makes the callback

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
        """Keep what was found, and end the run."""
        if self.profiled:
            wait(device)
            self.profiler.stop()
            with tempfile.TemporaryDirectory() as folder:
                self.profiler.export_chrome_trace(f"{folder}/trace.json")
                Clock.last.trace = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
        Clock.last.memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        trainer.should_stop = True


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def command(arguments: Iterable[str]) -> None:
    """The command line, in this process, from a clean compiler and memory. Raises what it says when it fails."""
    from simmim_pl.command.cli import main

    torch._dynamo.reset()  # or the networks before would count among the forms of one network
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
    """Time ``fit`` of a config, without validation: with the clock alone, or beside the callbacks of every run."""
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
    """Of a batch: launches, waits and copies; and the seconds in which the GPU did something, on any stream.

    - ``trace``: the events of torch's profiler, as it writes them for chrome.
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
