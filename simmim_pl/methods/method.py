"""What every self-supervised method shares: encoder, optimizer, schedule, and what a step returns."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import Batch, Encoder, Features, InputError
from simmim_pl.cpu.bfloat16 import convert_slow_layers
from simmim_pl.methods.compiled import Compiled
from simmim_pl.methods.finite_loss import FiniteLoss
from simmim_pl.methods.initial_weights import starting_weights
from simmim_pl.methods.opened import opened
from simmim_pl.methods.optimization import SharedFactory, optimizer_and_schedule
from simmim_pl.methods.step_log import StepLog
from simmim_pl.runtime import distributed, schedule
from simmim_pl.runtime.checkpoint import require_same_architecture
from simmim_pl.runtime.fingerprint import fingerprint
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import NonNegativeFloat, ranged
from simmim_pl.runtime.resume import apply_changed_hyperparameters, hyperparameters, resume_after_epochs
from simmim_pl.runtime.seeding import RankGenerator, derive_seed, make_generator
from simmim_pl.runtime.sync_batchnorm import convert_sync_batchnorm


class Output(TypedDict, total=False):
    """What ``training_step`` returns and callbacks read: the loss, and pooled features, detached, view by view."""

    loss: Float[Tensor, ""]
    features: Float[Tensor, "V*B D"]
    label: Int64[Tensor, " B"]


class Method(StepLog, ABC):
    """Base of every method: subclasses define ``training_step`` and end it with :meth:`Method.finish`.

    Callbacks use only the outputs of steps, ``encoder``, :meth:`forward` and, before training, :meth:`validation_step`.
    A method that compares projections of views also defines
    ``project(views) -> (features [V, B, D], projections [V, B, P])``; without it, metrics of projections are left out.
    A method with pictures defines :meth:`pictures`. Random numbers, such as masks, come from :meth:`generator`.

    The learning rate in the config is for 256 images per step. It is scaled linearly to the effective batch
    (batch_size × accumulate_grad_batches).

    Attributes:
        pretrains: marks a self-supervised method for the command line: ``fit`` may choose the fastest precision, and
            evaluating it without a checkpoint is refused.

    Args:
        encoder: image → features; the part that is kept.
        optimizer: any torch optimizer; its lr is for 256 images per step.
        warmup_epochs: linear warm-up, counted in steps, before the cosine decay to zero. Fractions are fine.
        decay_norm_and_bias: apply weight decay to biases, norms and positions too. The literature mostly does not.
        sync_batchnorm: on several devices, take BatchNorm's statistics over the whole batch, as one device would.
        compile: run the network through torch.compile while it trains, see :mod:`simmim_pl.methods.compiled`.
        channels_last: store the encoder's weights channels-last: faster on recent CPUs and on tensor cores.
        weights: checkpoint or state dict with the encoder's initial weights, ``FILE`` or ``FILE:KEY``, see
            :class:`simmim_pl.methods.initial_weights.InitialWeights`.
    """

    pretrains = True
    compiles: tuple[str, ...] = ("encoder",)  # names of the parts that --model.compile compiles
    compares_images = False  # whether the loss depends on which images share a batch; then accumulation is refused
    saves_memory = False  # whether the method trades time for memory, as by the gradient cache

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
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.warmup_epochs = encoder, warmup_epochs
        self.optimizer = SharedFactory(optimizer)
        self.decay_norm_and_bias, self.sync_batchnorm = decay_norm_and_bias, sync_batchnorm
        self.losses, self.compiled, self.initial_weights = FiniteLoss(), compile, weights
        self.configured: list[dict[str, Any]] = []  # the optimizer's hyperparameters as the config made them
        self.configured_before: list[dict[str, Any]] = []  # the same from the checkpoint that a run resumes from
        schedule.require_valid_lr(optimizer, schedule.parameter_groups(encoder, decay_norm_and_bias))
        if channels_last:
            self.encoder.to(memory_format=torch.channels_last)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        """Features of images in [0, 1]. Not compiled, because batches outside of training have many sizes."""
        with torch.compiler.set_stance("force_eager"):
            features: Features = self.encoder(image)
        return features

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        """The loss of this device's share of a batch, by way of :meth:`finish`. Lightning calls it on every batch."""

    def pictures(self, batch: Batch) -> dict[str, Float[Tensor, "N K C H W"]]:
        """Pictures of a few validation images, by name: one row per image, K pictures per row, in [0, 1].

        :class:`simmim_pl.callbacks.Pictures` calls it at every validation, on rank zero, in eval mode and without
        gradients; the report and W&B show the result. The name describes the columns.
        """
        return {}

    def generator(self, purpose: str) -> RankGenerator:
        """Random numbers of a training step for a purpose of the method's own, such as ``"mask"``.

        They are a function of seed, step and purpose. Draw by :func:`simmim_pl.runtime.seeding.uniform`, which gives an
        image the same numbers on any number of ranks. Outside of training they are the same at every call.
        """
        trainer = self.trainer
        step = trainer.fit_loop.total_batch_idx if trainer.training else -1
        return make_generator(self.seed, step, self.device, trainer.global_rank, trainer.world_size, purpose)

    def finish(self, loss: Float[Tensor, ""], pooled: Float[Tensor, "A D"], batch: Batch) -> Output:
        """Log the loss; return what callbacks read. A loss that is not finite stops the run at the next logged step."""
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
        output: Output = {"features": self(as_float(batch["image"])).pooled}
        if "label" in batch:
            output["label"] = batch["label"]
        return output

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Embeddings with the index of their image."""
        if "index" not in batch:
            raise InputError('predict needs batches with "index", the place of each image in its data set.')
        return {"index": batch["index"], "features": self(as_float(batch["image"])).pooled}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *, allow: Sequence[str] = (), **given: Any
    ) -> Any:
        """The method that a run trained, with its weights, on the CPU.

        Args:
            checkpoint_path: a checkpoint that ``fit`` wrote.
            allow: class paths outside this package, and other than torch's optimizers, that it may name.
            given: arguments of the method to use instead of those that the checkpoint's config describes.

        Raises:
            InputError: the checkpoint cannot be read, names a class that is not allowed, or does not fit its config.
        """
        return opened(cls, checkpoint_path, allow, given)

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
        resume_after_epochs(self.trainer)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        facts = {"code": fingerprint(), "seed": self.seed, "precision": self.trainer.precision}
        facts["batch_size"] = getattr(data, "batch_size", None)
        images = {f"number of {split} images": len(part) for split, part in getattr(data, "splits", {}).items()}
        distributed.require_equal_on_all_ranks(facts | images)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Random numbers within the network, such as dropout, depend on seed, step and rank only.
        step = self.trainer.fit_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, step, f"network {self.trainer.global_rank}"))

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if self.sync_batchnorm:
            convert_sync_batchnorm(self, strategy.root_device)
        if strategy.root_device.type == "cpu" and str(self.trainer.precision).startswith("bf16"):
            convert_slow_layers(self)
        # Lightning would convert after restoring a checkpoint, and so cast float64 weights to float32 in between.
        strategy.precision_plugin.convert_module(self)

    def configure_callbacks(self) -> list[Callback]:
        return [*starting_weights(self), *([Compiled()] if self.compiled else [])]

    def configure_optimizers(self) -> Any:
        how = self.optimizer, self.warmup_epochs, self.decay_norm_and_bias
        optimizer, factor = optimizer_and_schedule(self.trainer, self, *how)
        self.configured = hyperparameters(optimizer)  # before the schedule begins to change them
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    @property
    def seed(self) -> int:
        """Seed of the method's random numbers, from the datamodule, or without one that of ``seed_everything``."""
        known = getattr(self.trainer.datamodule, "seed", None)  # type: ignore[attr-defined]
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if known is None else known
