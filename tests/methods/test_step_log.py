"""Logged values equal Lightning's, and are computed only when they are written."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from simmim_pl.methods.step_log import StepLog


class Logs:
    """Logs numbers and tensors from several hooks, some of them rarely."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.batches = 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.batches += 1
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        self.log("number", 0.1 * self.batches)
        self.log_dict({"third": loss * 3, "mean": float(self.batches)}, on_epoch=True, on_step=False)
        if batch_idx % 4 == 1:
            self.log("seldom", torch.tensor(self.batches, dtype=torch.float64), True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("gradient", self.layer.weight.grad.norm())

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("validated", batch.sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithStepLog(Logs, StepLog): ...


class WithLightningsLog(Logs, LightningModule): ...


class LogsAfterStep(Callback):
    """Logs after the step, and stops the run at a batch."""

    def __init__(self, stop: int = 0) -> None:
        self.stop = stop

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        pl_module.log("twice", 2 * outputs["loss"])
        if pl_module.batches == self.stop:
            trainer.should_stop = True


def history(root: Path, module: LightningModule, stop: int = 0, **options: Any) -> list[dict[str, str]]:
    """Lines of ``metrics.csv``, of two epochs of ten batches."""
    torch.manual_seed(0)
    module.layer.reset_parameters()
    batches = DataLoader(torch.randn(20, 2), batch_size=2)
    options |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    logger = CSVLogger(root, name=None, version="run")
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=logger, callbacks=[LogsAfterStep(stop)], **options)
    trainer.fit(module, batches, batches)
    with (root / "run/metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "options",
    [
        *({"log_every_n_steps": every} for every in (1, 3, 5)),
        {"log_every_n_steps": 2, "accumulate_grad_batches": 2},
        {"log_every_n_steps": 3, "val_check_interval": 4},
        {"log_every_n_steps": 4, "stop": 7},
        {"log_every_n_steps": 3, "precision": "64-true"},
        {"log_every_n_steps": 3, "limit_train_batches": 7},
    ],
)
def test_the_history_equals_lightnings(tmp_path: Path, options: dict[str, Any]) -> None:
    kept = history(tmp_path / "kept", WithStepLog(), **options)
    assert kept == history(tmp_path / "lightnings", WithLightningsLog(), **options)
    assert {"loss", "number", "third", "seldom", "gradient", "twice", "validated", "mean"} <= set().union(*kept)


def test_lazy_metrics_are_computed_only_when_written(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counts(WithStepLog):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.log("count", lambda: calls.append(self.global_step) or len(calls), prog_bar=True)
            return super().training_step(batch, batch_idx)

    lines = history(tmp_path, Counts(), log_every_n_steps=4)
    assert calls == [3, 7, 9, 11, 15, 19]
    assert [float(line["count"]) for line in lines if "count" in line] == [1, 2, 4, 5, 6]
