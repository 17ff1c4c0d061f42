"""The last checkpoint always exists, also after Ctrl-C; a failing run never overwrites it."""

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO

from simmim_pl.callbacks import Checkpoint
from simmim_pl.contracts import Batch, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.methods.method import Method, Output


class Smallest(Method):
    """The mean feature as the loss, which is NaN at step ``breaks``."""

    breaks = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        features = self(batch["image"].float() / 255)
        factor = math.nan if self.global_step == self.breaks else 1
        return self.finish(features.pooled.mean() * factor, features.pooled, batch)


class Raises(Callback):
    """Raises after a number of steps."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


class SendsSignals(Callback):
    """Sends this process one or several signals after a number of steps."""

    def __init__(self, step: int, *numbers: signal.Signals) -> None:
        self.step, self.numbers = step, numbers

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for number in self.numbers:
                signal.raise_signal(number)


class Steps(Callback):
    """Records the step of the existing checkpoint at the start of each epoch, and at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[int | None] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.seen.append(torch.load(self.path, weights_only=True)["global_step"] if self.path.exists() else None)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Restores the signal handler: Lightning ignores Ctrl-C after the first one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def method() -> Smallest:
    torch.manual_seed(0)
    return Smallest(FastCNN(2), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1))


def fit(root: Path, *callbacks: Callback, module: Method | None = None, **options: Any) -> Trainer:
    """40 images in batches of 8: five steps per epoch."""
    ckpt_path = options.pop("ckpt_path", None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = Trainer(
        accelerator="cpu", devices=1, default_root_dir=root, callbacks=list(callbacks), **{**quiet, **options}
    )
    images = ImageDataModule(Shapes(train=50, test=10, size=16), batch_size=8, validation=10)
    trainer.fit(module or method(), datamodule=images, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def last(root: Path) -> Path:
    (only,) = (root / "checkpoints").iterdir()
    assert only.name == "last.ckpt"
    return only


def step(root: Path) -> int:
    return torch.load(last(root), weights_only=True)["global_step"]


def test_every_epoch_writes_the_single_checkpoint(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "checkpoints/last.ckpt")
    trainer = fit(tmp_path, steps, Checkpoint(), max_epochs=3)
    assert steps.seen == [None, 5, 10]
    assert step(tmp_path) == trainer.global_step == 15


@pytest.mark.parametrize(("epochs", "every", "seen"), [(3, 2, [None, None, 10]), (5, 3, [None, None, None, 15, 15])])
def test_the_last_step_is_saved_when_epochs_do_not_divide(
    tmp_path: Path, epochs: int, every: int, seen: list[int | None]
) -> None:
    steps = Steps(tmp_path / "checkpoints/last.ckpt")
    trainer = fit(tmp_path, steps, Checkpoint(every_n_epochs=every), max_epochs=epochs)
    assert steps.seen == seen
    assert step(tmp_path) == trainer.global_step == 5 * epochs


def test_a_run_that_ends_within_an_epoch_saves_its_last_step(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), max_steps=7)
    assert step(tmp_path) == 7


def test_the_checkpoint_holds_the_final_weights(tmp_path: Path) -> None:
    module = method()
    fit(tmp_path, Checkpoint(every_n_epochs=2), module=module, max_epochs=3)
    saved = torch.load(last(tmp_path), weights_only=True)["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in saved.items())


def test_an_interrupted_run_is_saved_and_resumes(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit, match="130"):
        fit(tmp_path, Checkpoint(), SendsSignals(7, signal.SIGINT), max_epochs=3)
    assert step(tmp_path) == 7
    assert signal.getsignal(signal.SIGINT) is before
    assert all(tensor.isfinite().all() for tensor in torch.load(last(tmp_path))["state_dict"].values())
    trainer = fit(tmp_path, Checkpoint(), max_epochs=3, ckpt_path=last(tmp_path))
    assert trainer.current_epoch == 3
    assert step(tmp_path) == trainer.global_step == 15


def test_an_interrupt_at_the_end_of_an_epoch_is_handled(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="143"):
        fit(tmp_path, Checkpoint(every_n_epochs=9), SendsSignals(5, signal.SIGTERM), max_epochs=3)
    assert step(tmp_path) == 5
    assert fit(tmp_path, Checkpoint(), max_epochs=3, ckpt_path=last(tmp_path)).global_step == 15


def test_a_second_interrupt_stops_at_once_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1"):  # Lightning ends a run this way at a KeyboardInterrupt
        fit(tmp_path, Checkpoint(), SendsSignals(7, signal.SIGINT, signal.SIGINT), max_epochs=3)
    assert step(tmp_path) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_handlers_are_restored_after_a_run(tmp_path: Path, number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda *_: heard.append(1))
    try:
        fit(tmp_path, Checkpoint(), max_epochs=1)
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert heard == [1]


@pytest.mark.parametrize(("every", "seen"), [(2, [None, 2, 4, 5, 7, 9]), (4, [None, 4, 5, 9, 10]), (7, [None, 5, 10])])
def test_checkpoints_are_saved_every_n_steps_within_an_epoch(
    tmp_path: Path, every: int, seen: list[int | None]
) -> None:
    class EveryStep(Steps):
        def on_train_batch_end(self, *args: Any) -> None:
            self.on_train_epoch_start(*args)

    steps = EveryStep(tmp_path / "checkpoints/last.ckpt")
    fit(tmp_path, steps, Checkpoint(every_n_steps=every), max_epochs=3)
    assert list(dict.fromkeys(steps.seen))[: len(seen)] == seen


def test_checkpoints_are_saved_every_n_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 40))  # reading the clock takes 40 seconds
    monkeypatch.setattr("simmim_pl.callbacks.checkpoint.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(RuntimeError):
        fit(tmp_path, Checkpoint(every_n_minutes=1.5), Raises(5, RuntimeError()), max_epochs=1)
    assert step(tmp_path) in (3, 4)


def test_a_run_interrupted_before_its_first_step_saves_no_checkpoint(tmp_path: Path) -> None:
    class AtOnce(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(tmp_path, Checkpoint(), AtOnce(), max_epochs=1)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("error", [RuntimeError("broken"), InputError("fix this"), MemoryError()])
def test_any_other_error_keeps_the_last_good_checkpoint(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        fit(tmp_path, Checkpoint(), Raises(8, error), max_epochs=3)
    assert step(tmp_path) == 5


def test_a_nan_loss_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", Checkpoint(), max_epochs=1)
    broken = method()
    broken.breaks = 8
    with pytest.raises(InputError, match="became nan at step 8"):
        fit(tmp_path / "broken", Checkpoint(), module=broken, max_epochs=3)
    assert step(tmp_path / "broken") == whole.global_step == 5
    kept = torch.load(last(tmp_path / "broken"), weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_the_checkpoint_of_the_command_line_holds_the_config(pretrained: Path) -> None:
    assert [path.name for path in pretrained.parent.glob("*.ckpt")] == ["last.ckpt"]
    saved = torch.load(pretrained, weights_only=True)
    written = yaml.safe_load((pretrained.parents[1] / "config.yaml").read_text())
    assert saved["config"] == written
    assert saved["config"]["data"]["init_args"]["source"]["init_args"]["train"] == 200
    assert saved["config"]["seed_everything"] == 0


@pytest.mark.parametrize("theirs", [AsyncCheckpointIO(), type("Theirs", (TorchCheckpointIO,), {})()])
def test_a_plugin_without_effect_is_refused(tmp_path: Path, theirs: CheckpointIO) -> None:
    name = type(theirs).__name__
    with pytest.raises(InputError, match=f"The plugin {name} would have no effect"):
        fit(tmp_path, Checkpoint(), max_epochs=1, plugins=[theirs])
    fit(tmp_path, Checkpoint(), max_epochs=1, plugins=[TorchCheckpointIO()])
    assert step(tmp_path) == 5


def test_a_validation_after_every_step_is_refused(tmp_path: Path) -> None:
    options = {"val_check_interval": 1, "limit_val_batches": 1, "max_epochs": 1, "num_sanity_val_steps": 0}
    with pytest.raises(InputError, match=r"set --trainer\.val_check_interval to more than 1\."):
        fit(tmp_path, Checkpoint(), **options)


@pytest.mark.parametrize(("epochs", "every", "position"), [(3, 2, (3, 0)), (2, 1, (2, 0))])
def test_a_checkpoint_at_the_end_of_an_epoch_points_to_the_next_epoch(
    tmp_path: Path, epochs: int, every: int, position: tuple[int, int]
) -> None:
    fit(tmp_path, Checkpoint(every_n_epochs=every), max_epochs=epochs)
    place = torch.load(last(tmp_path), weights_only=True)["ImageDataModule"]
    assert (place["epoch"], place["batches"]) == position
