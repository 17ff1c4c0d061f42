"""The network through torch.compile; on a CUDA device its kernels are launched together, as CUDA graphs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.contracts import Batch


class Compiled(Callback):
    """Compiles a method's ``compiles`` when training begins: in place, so that the names in a checkpoint stay the same.

    Every shape of a batch is compiled by itself, for shapes that stay make the quickest code: views, local views and
    final views of another size, each once. A CUDA graph keeps a step's tensors at fixed addresses. What it returned,
    gradients too, is therefore overwritten by the next step, and a setting that needs them longer is compiled without.
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
        if self.graphs:  # what they returned in the step before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (now := seconds()) > self.spent:  # this step compiled something
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
    """What this process has spent on compiling."""
    from torch._dynamo.utils import calculate_time_spent  # which takes a second to import

    return calculate_time_spent().get("total_wall_time", 0.0)
