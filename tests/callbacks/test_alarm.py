"""The alarm tells collapse, of both kinds, from saturation, and is silent on healthy runs."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from torch.nn import functional as F

from simmim_pl.callbacks import Alarm
from simmim_pl.losses import Loss
from tests.conftest import CONFIGS, QUIET
from tests.metrics.test_diagnosis import HEALTHY

Cli = Callable[[list[Any]], Path]


class NoNegatives(Loss):
    """Pulls views together, and nothing apart."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(z.float(), dim=-1)
        return -(unit[0] * unit[1]).sum(-1).mean()


class Logger(WandbLogger):
    """Keeps the alerts that it is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []

    @property
    def experiment(self) -> Any:
        return self

    def alert(self, **what: str) -> None:
        self.sent.append(what)


def test_it_is_raised_at_the_second_validation_in_a_row_and_once() -> None:
    alarm, ill = Alarm(), HEALTHY | {"representation/std": 0.0}
    said = [list(alarm.judge(metrics)) for metrics in (ill, HEALTHY, ill, ill, ill)]
    assert said == [[], [], [], ["complete collapse"], []]


def test_a_run_that_goes_on_remembers_what_was_said() -> None:
    alarms, ill = [Alarm() for _ in range(3)], HEALTHY | {"representation/directions": 1.2}
    said = []
    for before, alarm in zip([Alarm(), *alarms], alarms, strict=False):
        alarm.load_state_dict(before.state_dict())
        said.append(list(alarm.judge(ill)))
    assert said == [[], ["dimensional collapse"], []]


def test_it_is_told_in_the_console_and_to_wandb() -> None:
    trainer, logger = Trainer(logger=False, accelerator="cpu"), Logger()
    trainer.loggers = [logger]
    with pytest.warns(UserWarning, match="Saturation at step 40: too easy"):
        Alarm().alert(trainer, "saturation at step 40", "too easy")
    assert logger.sent == [{"title": "saturation at step 40", "text": "too easy", "level": "WARN"}]


SHORT = [
    *("fit", f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--trainer.max_epochs=3", "--data.source.train=4000"),
    *(
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.enable_model_summary=false",
        "--trainer.num_sanity_val_steps=0",
    ),
]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--model.loss=tests.callbacks.test_alarm.NoNegatives"], "Complete collapse"),
        (["--model.loss.temperature=100"], "Dimensional collapse"),
        (["--model.optimizer.lr=0.4"], "Complete collapse"),
        ([], None),
    ],
    ids=["no negatives", "huge temperature", "lr × 100", "healthy"],
)
def test_runs_made_to_collapse_are_named_and_a_healthy_one_is_not(
    cli: Cli, change: list[str], named: str | None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli([*SHORT, *change])
    said = [str(warning.message) for warning in caught if " at step " in str(warning.message)]
    assert len(said) == (named is not None), said
    assert all(f"{named} at step" in sentence for sentence in said), said
