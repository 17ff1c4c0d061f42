"""Speed is images divided by time, gradient norms equal NumPy's, memory equals the system's figure."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from simmim_pl.callbacks import TrainingMonitor
from simmim_pl.callbacks.training_monitor import peak_memory
from tests.callbacks.test_dashboard import fit
from tests.callbacks.test_online_probe import fit as pretrain

RATE, SECONDS = "train/images_per_second", "train/seconds"


class Clock(Callback):
    """A clock that advances by ``tick`` seconds per batch only."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 100.0, tick

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += self.tick

    def on_validation_start(self, *_: Any) -> None:
        self.now += 1000.0


# Five batches per epoch; the last is always logged, for the progress bar.
@pytest.mark.parametrize(("every", "logs"), [(1, 10), (2, 6), (3, 5), (100, 2)])
def test_the_rate_is_images_divided_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, logs: int
) -> None:
    clock = Clock(tick=0.25)
    monkeypatch.setattr("simmim_pl.callbacks.training_monitor.time", SimpleNamespace(perf_counter=lambda: clock.now))
    module = fit(tmp_path, clock, TrainingMonitor(), views=None, max_epochs=2, log_every_n_steps=every)
    # Validation takes 1000 seconds between epochs, which are not counted.
    assert module.logged[RATE] == pytest.approx([8 / 0.25] * logs)


def test_a_validation_within_an_epoch_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tick=0.25)
    monkeypatch.setattr("simmim_pl.callbacks.training_monitor.time", SimpleNamespace(perf_counter=lambda: clock.now))
    module = fit(tmp_path, clock, TrainingMonitor(), views=None, val_check_interval=2, log_every_n_steps=2)
    assert module.logged[RATE] == pytest.approx([8 / 0.25] * 3)


def test_the_rate_is_positive_with_the_real_clock(tmp_path: Path) -> None:
    rates = fit(tmp_path, TrainingMonitor(), views=None).logged[RATE]
    assert len(rates) == 5
    assert all(0 < rate < 1e6 for rate in rates)
    assert RATE in (tmp_path / "run/metrics.csv").read_text()


def history(folder: Path) -> list[tuple[int, float]]:
    """Steps and seconds of ``metrics.csv``."""
    with (folder / "run/metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[SECONDS])) for row in csv.DictReader(file) if row.get(SECONDS)]


def test_seconds_include_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tick=0.25)
    monkeypatch.setattr("simmim_pl.callbacks.training_monitor.time", SimpleNamespace(perf_counter=lambda: clock.now))
    fit(tmp_path, clock, TrainingMonitor(), views=None, max_epochs=2, log_every_n_steps=2, num_sanity_val_steps=0)
    waits = [0 if step < 5 else 1000 for step in range(10)]
    assert history(tmp_path) == [(step, 0.25 * (step + 1) + waits[step]) for step in (1, 3, 5, 7, 9)]


def test_a_resumed_run_counts_seconds_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("simmim_pl.callbacks.training_monitor.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr("simmim_pl.callbacks.training_monitor.due", lambda trainer: True)
    trainer = Mock(Trainer, world_size=1)
    logged: dict[str, float] = {}
    module = Mock(LightningModule, log=lambda name, value, **_: logged.update({name: value}))

    def later(vitals: TrainingMonitor, seconds: float) -> float:
        clock.now += seconds
        vitals.on_train_batch_end(trainer, module, None, {"index": torch.zeros(1)}, 0)
        return logged[SECONDS]

    saved: dict[str, Any] = {}
    first, second, third = TrainingMonitor(), TrainingMonitor(), TrainingMonitor()
    first.on_train_start(trainer, module)
    assert later(first, 7) == 7
    first.on_save_checkpoint(trainer, module, saved)
    later(first, 50)  # which is lost
    clock.now += 1000
    second.on_load_checkpoint(trainer, module, saved)
    second.on_train_start(trainer, module)
    assert later(second, 5) == 12
    third.on_load_checkpoint(trainer, module, {"seconds": "many"})  # of another tool
    third.on_train_start(trainer, module)
    assert later(third, 5) == 5


class Norms(Callback):
    """Records NumPy's gradient norms of a module, and the values logged after the step."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.expected: list[float] = []
        self.logged: list[float | None] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        part = getattr(pl_module, self.part)
        self.expected.append(float(np.linalg.norm(np.concatenate([p.grad.flatten() for p in part.parameters()]))))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        value = trainer.callback_metrics.get(f"gradients/{self.part}")
        self.logged.append(None if value is None else value.item())


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_gradients_are_measured_before_clipping_when_they_are_logged(tmp_path: Path, part: str) -> None:
    norms = Norms(part)
    pretrain(tmp_path, TrainingMonitor(), norms, max_epochs=1, gradient_clip_val=1e-3, log_every_n_steps=2)
    assert norms.logged[0] is None
    assert norms.logged[1::2] == pytest.approx(norms.expected[1::2], rel=1e-4)
    assert min(norms.expected) > 1e-3  # so that a clipped norm differs
    assert norms.logged[2] == norms.logged[1]  # not measured at a step that is not logged


def test_memory_equals_the_systems_figure() -> None:
    held = torch.ones(25_000_000)  # 100 MB
    assert psutil.Process().memory_info().rss <= peak_memory(held.device) * 1.01
    assert peak_memory(held.device) > 4 * held.numel()
    assert peak_memory(held.device) < psutil.virtual_memory().total
