"""What every self-supervised method shares: encoder, optimizer, schedule, and what a step returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import Batch, Encoder, Features, InputError
from simmim_pl.cpu.small_grids import convert_small_grids
from simmim_pl.methods.finite_loss import FiniteLoss
from simmim_pl.methods.step_log import StepLog
from simmim_pl.runtime import distributed, schedule
from simmim_pl.runtime.checkpoint import load_checkpoint, meta_state_dict, require_same_architecture
from simmim_pl.runtime.fingerprint import fingerprint
from simmim_pl.runtime.from_config import build_method
from simmim_pl.runtime.ranges import NonNegativeFloat, ranged
from simmim_pl.runtime.resume import apply_changed_hyperparameters, hyperparameters
from simmim_pl.runtime.seeding import derive_seed
from simmim_pl.runtime.sync_batchnorm import convert_sync_batchnorm


class Output(TypedDict, total=False):
    """What ``training_step`` returns and callbacks read."""

    loss: Float[Tensor, ""]
    features: Float[Tensor, "V*B D"]  # detached, view by view
    label: Int64[Tensor, " B"]


class Method(StepLog):
    """Base of every method: subclasses define ``training_step`` and end it with :meth:`finish`.

    Callbacks read what a step returns, and ask ``encoder``, :meth:`forward` and, of the network before training,
    :meth:`validation_step`; no more of a method. One that compares projections of several views also defines
    ``project(views) -> (features [V, B, D], projections [V, B, P])``; without it, what is measured of projections is
    left out.

    The learning rate in the config is for 256 images a step. It is scaled linearly to the effective batch (batch_size ×
    accumulate_grad_batches), so a step moves the weights in proportion to the images it saw.

    Attributes:
        pretrains: tells the command line that this is a method: ``fit`` may take the precision that is fastest, and
            what it predicts without a checkpoint means nothing.

    Args:
        encoder: image → features; the part that is kept.
        optimizer: any torch optimizer; its lr is for 256 images a step.
        warmup_epochs: linear warm-up, counted in steps, before the cosine decay to zero. Fractions are fine.
        decay_norm_and_bias: apply weight decay to biases and normalisation layers too. The literature mostly does not.
        sync_batchnorm: on several devices, take BatchNorm's statistics over the whole batch, as one device would.
        compile: run the encoder through torch.compile while it trains.
        channels_last: store the encoder's weights channels-last, which its activations follow: faster on recent CPUs
            and on tensor cores.
    """

    pretrains = True
    saves_memory = False  # true of a run for which memory is short, so that time may be spent on it

    @ranged
    def __init__(
        self,
        encoder: Encoder,
        optimizer: OptimizerCallable,
        warmup_epochs: NonNegativeFloat = 0.0,
        decay_norm_and_bias: bool = False,
        sync_batchnorm: bool = True,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.optimizer = optimizer
        self.warmup_epochs = warmup_epochs
        self.decay_norm_and_bias = decay_norm_and_bias
        self.sync_batchnorm = sync_batchnorm
        self.losses = FiniteLoss()
        self.configured: list[dict[str, Any]] = []  # the optimizer's hyperparameters as the config made them
        self.configured_before: list[dict[str, Any]] = []  # the same of the run that a checkpoint goes on with
        schedule.require_valid_lr(optimizer, schedule.parameter_groups(encoder, decay_norm_and_bias))
        if channels_last:
            self.encoder.to(memory_format=torch.channels_last)
        if compile:
            self.encoder.compile()  # in place: the names in a checkpoint stay the same

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        """Features of images in [0, 1], to evaluate or to keep: never compiled, for batches here come in many sizes."""
        with torch.compiler.set_stance("force_eager"):
            features: Features = self.encoder(image)
        return features

    def finish(self, loss: Float[Tensor, ""], pooled: Float[Tensor, "A D"], batch: Batch) -> Output:
        """Log the loss, which stops the run at the log's next line if it is not finite; return what callbacks read."""
        self.losses.add(self.global_step, loss)
        self.log("train/loss", self.losses.read, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/progress", (self.trainer.global_step + 1) / self.trainer.estimated_stepping_batches)
        output: Output = {"loss": loss, "features": pooled.detach()}
        if "label" in batch:
            output["label"] = batch["label"]
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:
        """Features of clean images, for callbacks to evaluate."""
        output: Output = {"features": self(batch["image"].float() / 255).pooled}
        if "label" in batch:
            output["label"] = batch["label"]
        return output

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Embeddings with the index of their image."""
        return {"index": batch["index"], "features": self(batch["image"].float() / 255).pooled}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *, allow: Sequence[str] = (), **given: Any
    ) -> Any:
        """The method that a run trained, with its weights, on the CPU.

        Args:
            checkpoint_path: a checkpoint that ``fit`` wrote.
            allow: class paths outside this package, and other than torch's optimizers, that it may name.
            given: arguments of the method to use in place of those that the checkpoint's config describes.

        Raises:
            InputError: the checkpoint cannot be read, names a class that is not allowed, or does not fit its config.
        """
        optimizers = [f"torch.optim.{name}" for name in torch.optim.__all__ if hasattr(torch.optim, name)]
        saved = load_checkpoint(checkpoint_path)

        def made() -> Any:
            return build_method(cls, saved, str(checkpoint_path), frozenset([*allow, *optimizers]), given)

        if not (allow or given) and (own := meta_state_dict(made)):  # of ours alone: before any memory is taken
            require_same_architecture(saved["state_dict"], own, checkpoint_path)
        method = made()
        require_same_architecture(saved["state_dict"], method.state_dict(), checkpoint_path)
        method.load_state_dict(saved["state_dict"])
        return method

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_architecture(checkpoint["state_dict"], self.state_dict(), "The checkpoint")
        self.configured_before = checkpoint.get("hyperparameters", [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses.read()
        checkpoint["hyperparameters"] = self.configured

    def on_train_epoch_end(self) -> None:
        self.losses.read()

    on_validation_start = on_train_epoch_end

    def on_train_start(self) -> None:
        self.losses = FiniteLoss()
        if self.configured_before:  # the optimizer's own were restored
            scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
            apply_changed_hyperparameters(
                self.trainer.optimizers[0], scheduler, self.configured_before, self.configured
            )

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        facts = {"code": fingerprint(), "seed": self.seed, "precision": self.trainer.precision}
        facts["batch_size"] = getattr(data, "batch_size", None)
        images = {f"number of {split} images": len(part) for split, part in getattr(data, "splits", {}).items()}
        distributed.require_equal_on_all_ranks(facts | images)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # What an encoder draws, such as dropout, is a function of its place in the run too; each rank has its own.
        step = self.trainer.fit_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, step, f"network {self.trainer.global_rank}"))

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if self.sync_batchnorm:
            convert_sync_batchnorm(self, strategy.root_device)
        if strategy.root_device.type == "cpu" and str(self.trainer.precision).startswith("bf16"):
            convert_small_grids(self.encoder)
        # Lightning would do so after it has restored a checkpoint, and cut float64 weights to float32 on the way.
        strategy.precision_plugin.convert_module(self)

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise InputError("A cosine schedule needs an end: set --trainer.max_epochs or --trainer.max_steps.")
        batch = schedule.effective_batch(self.trainer)
        scale = batch / schedule.REFERENCE_BATCH
        optimizer = self.optimizer(schedule.parameter_groups(self, self.decay_norm_and_bias))
        for group in optimizer.param_groups:
            group["lr"] *= scale
        peak = optimizer.param_groups[0]["lr"]
        self.configured = hyperparameters(optimizer)
        warmup = 0
        if self.warmup_epochs:
            self.trainer.fit_loop.setup_data()  # with max_epochs -1 nothing has asked for the number of batches yet
            batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
            warmup = round(self.warmup_epochs * batches)
        scheduler = LambdaLR(optimizer, lambda step: schedule.warmup_cosine(step, warmup, int(steps)))
        rank_zero_info(
            f"Effective batch {batch} = batch_size × accumulation, whatever the devices: "
            f"lr {peak:.4g} after {warmup} warm-up steps, cosine to 0 over {steps}."
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def seed(self) -> int:
        """Of what the network draws: the datamodule's, or without one that of ``seed_everything``."""
        known = getattr(self.trainer.datamodule, "seed", None)  # type: ignore[attr-defined]
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if known is None else known
