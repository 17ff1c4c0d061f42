"""Training ends after a given number of FLOP."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simmim_pl.contracts import Batch
from simmim_pl.methods import Contrastive
from simmim_pl.methods.method import Output
from tests.conftest import TINY

Cli = Callable[[list[Any]], Path]
MAX = "--callbacks.max_flop.flop"


def end(run: Path) -> tuple[int, float]:
    """The number of steps of a run, and its last learning rate."""
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return saved["global_step"], saved["lr_schedulers"][0]["_last_lr"][0]


def of_a_step(said: str) -> tuple[int, float]:
    """The number of steps and the FLOP per step, as a run prints them."""
    (line,) = [line for line in said.splitlines() if "FLOP are" in line]
    steps, flop = re.findall(r"FLOP are (\d+) steps of ([\d.e+]+)\.", line)[0]
    return int(steps), float(flop)


def test_the_run_and_its_schedule_end_at_the_flop_budget(cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    short = [*TINY, "--trainer.max_epochs=-1"]
    run = cli([*short, f"{MAX}=4e8"])
    steps, flop = of_a_step(caplog.text)
    caplog.clear()
    assert steps == round(4e8 / flop) > 1
    assert end(run) == (steps, 0.0)
    final = ["--data.final_views=simmim_pl.views.ContrastiveViews", "--data.final_views.size=32"]
    run = cli([*short, f"{MAX}=4e8", *final, "--data.final_share=0.5"])
    fewer, dearer = of_a_step(caplog.text)
    assert fewer == round(4e8 / dearer) < steps
    assert end(run) == (fewer, 0.0)


def test_an_earlier_limit_ends_the_run_with_a_warning(cli: Cli) -> None:
    with pytest.warns(UserWarning, match="ends after 10 steps, before its 1e\\+12 FLOP are spent"):
        assert end(cli([*TINY, f"{MAX}=1e12"])) == (2 * 5, 0.0)
    limits = ["--trainer.max_epochs=-1", "--trainer.max_steps=3"]
    assert end(cli([*TINY, f"{MAX}=1e12", *limits])) == (3, 0.0)


def test_resuming_at_the_end_of_an_epoch_ends_at_the_same_step(cli: Cli) -> None:
    """Lightning alone would repeat that epoch, because ``max_steps`` is set."""
    whole = [*TINY, "--trainer.max_epochs=-1", f"{MAX}=4e8"]
    straight = cli([*whole, "--name=straight"])
    stopped = cli([*whole, "--trainer.callbacks+=tests.command.test_cli.StopAfterOne", "--name=stopped"])
    assert 0 < end(stopped)[0] < end(straight)[0]
    resumed = cli([*whole, "--name=stopped", "--ckpt_path=last"])
    assert end(resumed) == end(straight)
    weights = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (straight, resumed)
    ]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([f"{MAX}=10"], "A step of Contrastive takes"),
        ([f"{MAX}=-1"], "flop has to be above 0"),
        ([f"{MAX}=1e9", "--data.views=null"], "Contrastive pretraining needs views: set --data.views"),
        ([f"{MAX}=1e9", "--data.batch_size=1"], "error: A batch of one image has no negatives"),
    ],
)
def test_an_impossible_budget_is_a_one_line_error(
    cli: Cli, capfd: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    with pytest.raises(SystemExit):
        cli([*TINY, *more])
    error = capfd.readouterr().err
    assert says in error
    assert "Traceback" not in error


class Odd(Contrastive):
    """A method whose step fails on fake tensors."""

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        assert batch["views"].sum().item()
        return super().training_step(batch, batch_idx)


def test_a_step_that_reads_values_cannot_be_counted(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli([*TINY, "--model=tests.callbacks.test_max_flop.Odd", f"{MAX}=1e9"])
    error = capfd.readouterr().err
    assert "The FLOP of a step of Odd cannot be counted (DataDependentOutputException: " in error
    assert "set --trainer.max_steps instead of --callbacks.max_flop.flop." in error
