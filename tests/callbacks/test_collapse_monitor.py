"""The monitor distinguishes both kinds of collapse from a run that learns nothing; learning runs get no alert."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn import functional as F

from simmim_pl.callbacks import CollapseMonitor
from simmim_pl.losses import Loss
from simmim_pl.metrics import verdict
from simmim_pl.report.run import load_run
from tests.conftest import CONFIGS, QUIET, TINY
from tests.metrics.test_diagnosis import HEALTHY, NOTHING
from tests.test_parity import BYOL

Cli = Callable[[list[Any]], Path]


class NoNegatives(Loss):
    """Pulls views together without negatives."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(z.float(), dim=-1)
        return -(unit[0] * unit[1]).sum(-1).mean()


class Run(SimpleNamespace):
    """Records what is sent to a W&B run."""

    def __init__(self) -> None:
        super().__init__(sent=[], summary={})

    def alert(self, **what: str) -> None:
        self.sent.append(what)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run()
    monkeypatch.setattr("simmim_pl.callbacks.collapse_monitor.online", lambda trainer: [run])
    return run


def validated(alarm: CollapseMonitor, *found: dict[str, float]) -> None:
    """Report these metrics at successive validations."""
    trainer = Trainer(logger=False, accelerator="cpu")
    for metrics in found:
        alarm.evaluate(trainer, metrics)


def titles(run: Run) -> list[str]:
    return [what["title"].removesuffix(" at step 0") for what in run.sent]


@pytest.mark.filterwarnings("ignore:Complete collapse")
def test_the_alert_is_sent_once_at_the_second_bad_validation_in_a_row(sent: Run) -> None:
    alarm, ill = CollapseMonitor(), HEALTHY | {"representation/std": 0.0}
    validated(alarm, ill, HEALTHY, ill)
    assert titles(sent) == []
    validated(alarm, ill, ill, HEALTHY, HEALTHY, ill, ill)
    assert titles(sent) == ["complete collapse"]
    assert sent.summary["verdict"] == "complete collapse"


@pytest.mark.filterwarnings("ignore:Not learning")
def test_a_run_that_learns_nothing_gets_one_alert_and_a_learning_run_none(sent: Run) -> None:
    alarm = CollapseMonitor()
    validated(alarm, NOTHING)
    assert sent.summary["verdict"] == "too early to tell"
    validated(alarm, NOTHING, NOTHING)
    assert titles(sent) == ["not learning"]
    assert "Against it: loss 6.22, by chance 6.24" in sent.sent[0]["text"]
    validated(alarm, HEALTHY, HEALTHY)
    assert titles(sent) == ["not learning"]
    assert sent.summary["verdict"] == "learning"
    assert "kNN accuracy 27.3 %" in sent.summary["verdict_evidence"]


@pytest.mark.filterwarnings("ignore:Dimensional collapse")
def test_a_resumed_run_does_not_repeat_alerts(sent: Run) -> None:
    ill, before = HEALTHY | {"representation/directions": 1.2}, CollapseMonitor()
    for expected in ([], ["dimensional collapse"], ["dimensional collapse"]):
        alarm = CollapseMonitor()
        alarm.load_state_dict(before.state_dict())
        validated(alarm, ill)
        assert titles(sent) == expected
        before = alarm


def test_the_alert_goes_to_the_console_and_wandb(sent: Run) -> None:
    trainer = Trainer(logger=False, accelerator="cpu")
    with pytest.warns(UserWarning, match="Saturation at step 40: too easy"):
        CollapseMonitor().alert(trainer, "saturation at step 40", "too easy")
    assert sent.sent == [{"title": "saturation at step 40", "text": "too easy", "level": "WARN"}]


@pytest.mark.parametrize("measured", ["", "val/knn", "val/knn/pets", "representation/std"])
def test_a_run_without_metrics_gets_no_verdict(sent: Run, monkeypatch: pytest.MonkeyPatch, measured: str) -> None:
    said: list[str] = []
    monkeypatch.setattr("simmim_pl.callbacks.collapse_monitor.rank_zero_info", said.append)
    metrics = {"val/some": torch.tensor(0.5)} | ({measured: torch.tensor(0.5)} if measured else {})
    for name, value in {"callback_metrics": metrics, "global_step": 30, "estimated_stepping_batches": 40}.items():
        monkeypatch.setattr(Trainer, name, value)
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.state.fn = TrainerFn.FITTING
    alarm, module = CollapseMonitor(), LightningModule()
    alarm.on_validation_end(trainer, module)
    alarm.on_train_end(trainer, module)
    assert len(said) == len(sent.summary.keys() & {"verdict"}) == bool(measured)
    assert [metrics["train/progress"] for metrics in alarm.validations] == [0.75] * bool(measured)


@pytest.mark.parametrize(
    "more", [[], [*BYOL, "--trainer.accumulate_grad_batches=2"], ["--trainer.val_check_interval=3"]]
)
def test_the_monitor_and_the_report_agree(
    cli: Cli, sent: Run, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    evaluated: list[list[dict[str, float]]] = []
    monkeypatch.setattr(
        "simmim_pl.callbacks.collapse_monitor.verdict", lambda found: evaluated.append([*found]) or verdict(found)
    )
    run = load_run(cli([*TINY, "--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=2", *more]))
    assert len(evaluated[-1]) == 2
    for mine, theirs in zip(evaluated[-1], run.validations()[-2:], strict=True):
        assert mine == pytest.approx({name: theirs[name] for name in mine})
        assert set(mine) >= {"train/loss", "train/progress", "information/infonce_untrained", "val/knn_untrained"}
    assert "loss" in str(run.verdict())
    assert sent.summary == {"verdict": run.verdict().state, "verdict_evidence": str(run.verdict())}


# A few seconds each: a small network, 20 steps per epoch, two validations.
SHORT = [
    *("fit", f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--trainer.precision=32-true"),
    *("--data.source.train=1500", "--data.source.size=16", "--data.source.copies=1", "--data.validation=500"),
    *("--model.encoder.width=8", "--data.batch_size=50", "--model.head.hidden_dim=64", "--model.head.output_dim=32"),
    *("--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2", "--trainer.num_sanity_val_steps=0"),
    "--trainer.enable_model_summary=false",
]
UNCHANGED_COLOURS = [f"--data.views.{name}=0" for name in ("brightness", "contrast", "saturation", "hue", "grayscale")]
rarely = pytest.mark.skipif(os.environ.get("LONG") != "1", reason="collapses as the one before: make test-long")
COLLAPSES = {"complete collapse", "dimensional collapse"}  # rounding decides which of the two


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            ["--model.loss=tests.callbacks.test_collapse_monitor.NoNegatives", "--model.optimizer.lr=0.02"],
            {"complete collapse"},
        ),
        pytest.param(["--model.loss.temperature=100"], COLLAPSES, marks=rarely),
        pytest.param(["--model.optimizer.lr=0.4"], COLLAPSES, marks=rarely),
        (["--model.optimizer.lr=1e-9"], {"not learning"}),
        (UNCHANGED_COLOURS, {"shortcut"}),  # views can be matched by colour, and classes differ by shape
        (["--trainer.max_epochs=8", "--trainer.check_val_every_n_epoch=4"], {"learning"}),
    ],
    ids=["no negatives", "huge temperature", "lr × 100", "lr 1e-9", "unchanged colours", "healthy"],
)
def test_failing_runs_are_detected_and_a_healthy_run_is_not(cli: Cli, change: list[str], named: set[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = load_run(cli([*SHORT, *change])).verdict().state
    said = [str(warning.message).split(" at step ") for warning in caught if " at step " in str(warning.message)]
    assert state in named
    assert [name.lower() for name, _ in said] == [state] * (state != "learning")
