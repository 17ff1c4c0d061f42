"""Compile the network by torch.compile, with CUDA graphs on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.contracts import Batch


class Compiled(Callback):
    """Compiles the modules named in a method's ``compiles`` when training begins, in place: names in checkpoints stay.

    Static shapes give the fastest code, so every batch shape is compiled once: views, local views and final views of
    another size. A CUDA graph keeps a step's tensors at fixed addresses, so the next step overwrites its outputs and
    gradients. Settings that need them longer are compiled without CUDA graphs.
    """

    graphs = False  # whether CUDA graphs are used
    spent = 0.0  # seconds so far

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_gpu, why = trainer.strategy.root_device.type == "cuda", obstacle(trainer, pl_module)
        self.graphs, self.spent = on_gpu and why is None, seconds()
        for name in pl_module.compiles:  # type: ignore[union-attr]
            pl_module.get_submodule(name).compile(mode="reduce-overhead" if self.graphs else None, dynamic=False)
        if on_gpu and why:
            rank_zero_info(f"Compiled without CUDA graphs: {why}.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self.graphs:  # outputs of the previous step may be overwritten
            torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (now := seconds()) > self.spent:  # torch compiled in this step
            took = f"Compiled in {now - self.spent:.0f} s"
            rank_zero_info(f"{took}; later runs take it from torch's cache, whose folder TORCHINDUCTOR_CACHE_DIR sets.")
        self.spent = now


def obstacle(trainer: Trainer, method: Any) -> str | None:
    """Why CUDA graphs cannot be used; None where they can."""
    if trainer.world_size > 1:
        return "DistributedDataParallel sends gradients while they are computed"
    if trainer.accumulate_grad_batches > 1:  # https://github.com/pytorch/pytorch/issues/169545
        return "gradients that accumulate outlive the step that computed them"
    return "the gradient cache encodes every chunk twice" if method.saves_memory else None


def seconds() -> float:
    """Seconds that this process has spent on compiling."""
    from torch._dynamo.utils import calculate_time_spent  # takes a second to import

    return calculate_time_spent().get("total_wall_time", 0.0)
