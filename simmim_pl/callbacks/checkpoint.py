"""Checkpoints: the last one always, also when the keyboard interrupts."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info


class Checkpoint(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt`` of the run: the final epoch is what is evaluated, never the best one.

    Ctrl-C leaves a checkpoint as well. Other errors do not: after a loss of NaN the last good one stays.

    Args:
        every_n_epochs: epochs between two checkpoints.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        # save_top_k=1 without a monitor is the latest; Lightning's own save_last is silent when save_top_k is 0.
        super().__init__(
            filename="last",
            save_top_k=1,
            enable_version_counter=False,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if finite(pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._last_global_step_saved != trainer.global_step and self.dirpath and finite(pl_module):
            trainer.save_checkpoint(Path(self.dirpath, "last.ckpt"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0 and self.dirpath:
            path = Path(self.dirpath, "last.ckpt")
            # Without trainer.save_checkpoint's barrier: interrupted ranks stand in different collectives.
            trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), path)
            rank_zero_info(f"Interrupted at step {trainer.global_step}. To go on: --ckpt_path {path}")


def finite(module: LightningModule) -> bool:
    """Whether no parameter is NaN or infinite: an epoch's last update may have spoilt what no loss has shown yet."""
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())
