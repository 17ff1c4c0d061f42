"""In which training batches loggers write metrics: in all others nothing may wait for the device."""

from __future__ import annotations

from typing import Any


def due(trainer: Any) -> bool:
    """Whether loggers write the metrics of this training batch, or it is the last of the epoch; equal on all ranks.

    Call it from ``on_train_batch_start`` to ``on_train_batch_end``. Lightning decides in the same way at the end of a
    batch. With gradient accumulation, only the batch that ends a step is written.
    """
    if trainer.fit_loop._should_accumulate():
        return False
    return bool(trainer._logger_connector.should_update_logs or trainer.is_last_batch or trainer.fast_dev_run)
