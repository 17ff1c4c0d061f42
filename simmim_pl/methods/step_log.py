"""A LightningModule that logs in every training batch, but waits for the device only when loggers write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from simmim_pl.runtime.log_steps import due

Value = float | Tensor | Metric | Callable[[], Tensor | float]
OF_A_BATCH = {
    *("training_step", "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "optimizer_step", "lr_scheduler_step"),
}


class StepLog(LightningModule):
    """Keeps values logged in training batches until loggers write, and then passes them to Lightning as CPU numbers.

    Lightning would copy every Python number to the device, and read those of the progress bar back at every batch. On a
    GPU each of these waits for all queued work. So the progress bar shows the values of the last logged step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unwritten: dict[tuple[str, str], tuple[Value, dict[str, Any]]] = {}

    def log(self, name: str, value: Value, *args: Any, **how: Any) -> None:
        """Lightning's ``log``, which also takes a function that returns the value, called only when it is written.

        Values averaged over an epoch or over ranks, and torchmetrics, are logged at once.
        """
        hook = self._current_fx_name
        of_many = how.get("on_epoch") or how.get("sync_dist") or isinstance(value, Metric) or args[2:]
        if hook not in OF_A_BATCH or of_many:
            super().log(name, called(value), *args, **how)
            return
        if args:
            how |= dict(zip(("prog_bar", "logger"), args, strict=False))
        # As Lightning would store it: the default type may be another one when it is written.
        number = torch.tensor(value, dtype=torch.get_default_dtype()) if isinstance(value, int | float) else value
        self.unwritten[hook, name] = number, how
        if due(self.trainer):
            self.write(hook, name)

    def write(self, hook: str, name: str) -> None:
        """Log the kept values as if from the hook that logged them."""
        value, how = self.unwritten.pop((hook, name))
        now, self._current_fx_name = self._current_fx_name, hook
        number = called(value)
        super().log(name, number.detach().cpu() if isinstance(number, Tensor) else number, **how)
        self._current_fx_name = now

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log values left from earlier batches, or if a callback has just stopped the run."""
        if due(self.trainer):
            for hook, name in list(self.unwritten):
                self.write(hook, name)

    def on_train_epoch_start(self) -> None:
        self.unwritten.clear()  # as Lightning drops its values here


def called(value: Value) -> Any:
    """The number that a function gives; anything else as it is."""
    return value() if callable(value) and not isinstance(value, Metric) else value
