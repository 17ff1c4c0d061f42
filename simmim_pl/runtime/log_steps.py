"""At which training batches metrics are written: between two of them nothing may wait for the device."""

from __future__ import annotations

from typing import Any


def due(trainer: Any) -> bool:
    """Whether loggers write what this training batch logs, or the epoch ends with it: the same on all ranks.

    Asked anywhere from ``on_train_batch_start`` to ``on_train_batch_end``. It is what Lightning asks when the batch is
    over; of batches whose gradients are accumulated, only the one that makes the step is written.
    """
    if trainer.fit_loop._should_accumulate():
        return False
    return bool(trainer._logger_connector.should_update_logs or trainer.is_last_batch or trainer.fast_dev_run)
