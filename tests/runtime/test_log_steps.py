"""Metrics are written where Lightning's loggers are called, and at the end of an epoch."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from simmim_pl.runtime.log_steps import due


class Asks(Callback):
    """Records whether metrics are due at the start and at the end of a batch."""

    def __init__(self) -> None:
        self.said: list[tuple[bool, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.before = due(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.said.append((self.before, due(trainer)))
        pl_module.log("number", 1.0)


@pytest.mark.parametrize(("every", "together", "lines"), [(1, 1, 20), (3, 1, 6), (2, 3, 4), (0, 1, 0)])
def test_metrics_are_due_where_loggers_write_and_with_the_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, together: int, lines: int
) -> None:
    asks = Asks()
    written: list[int] = []
    monkeypatch.setattr(CSVLogger, "log_metrics", lambda *_, **__: written.append(trainer.fit_loop.total_batch_idx))
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path),
        callbacks=[asks],
        max_epochs=2,
        limit_train_batches=10,
        limit_val_batches=0,
        log_every_n_steps=every,
        accumulate_grad_batches=together,
        **quiet,
    )
    trainer.fit(BoringModel())
    assert all(before == after for before, after in asks.said)
    assert [batch for batch, (_, after) in enumerate(asks.said) if after] == sorted({*written, 9, 19})
    assert len(set(written)) == lines
