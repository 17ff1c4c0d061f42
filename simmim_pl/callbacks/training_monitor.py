"""Log throughput, memory and gradient norms."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from simmim_pl.contracts import Batch
from simmim_pl.runtime.log_steps import due


class TrainingMonitor(Callback):
    """Logs ``train/seconds``, ``train/images_per_second``, ``train/memory_gb`` and ``gradients/PART``.

    - Seconds are those since training began, including validation; for a resumed run, also those up to its checkpoint.
    - Images per second are of all devices, since the last logged step or the epoch's beginning, without validation.
      Between logged steps nothing waits for the GPU, so its speed is not known then.
    - Memory is the peak so far on this device (rank zero's); without a GPU, that of the process.
    - Gradient norms are of each part of the method, such as the encoder, before clipping.
    """

    def __init__(self) -> None:
        self.seen, self.since = 0, 0.0
        self.before, self.began = 0.0, 0.0  # seconds before this process, and when it began to train

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.before + time.perf_counter() - self.began

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        seconds = checkpoint.get("seconds")
        self.before = seconds if isinstance(seconds, float) else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()
        self.on_train_epoch_start(trainer, pl_module)  # not called when a run resumes within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen, self.since = 0, time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a validation within an epoch is not counted either

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not due(trainer):
            return
        for name, part in pl_module.named_children():
            gradients = [weight.grad for weight in part.parameters() if weight.grad is not None]
            if gradients:
                pl_module.log(f"gradients/{name}", get_total_norm(gradients))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.seen += images(batch) * trainer.world_size
        if due(trainer):
            now = time.perf_counter()
            pl_module.log("train/seconds", self.before + now - self.began)
            pl_module.log("train/images_per_second", self.seen / (now - self.since), prog_bar=True)
            pl_module.log("train/memory_gb", peak_memory(pl_module.device) / 1e9)
            self.seen, self.since = 0, now


def images(batch: Batch) -> int:
    """Number of images in a batch, from any DataLoader."""
    known = next((batch[name] for name in ("index", "image", "label") if name in batch), None)
    return len(known) if known is not None else batch["views"].shape[1]


def peak_memory(device: Any) -> float:
    """Peak memory in bytes, of a CUDA device or else of this process; NaN where the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(ImportError):  # Windows has none
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return float("nan")
