"""A changed setting on resume is applied and reported, or refused; without changes resuming is exact."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from simmim_pl.contracts import InputError
from simmim_pl.runtime.resume import (
    apply_changed_hyperparameters,
    config_changes,
    hyperparameters,
    require_allowed_changes,
)
from simmim_pl.runtime.schedule import warmup_cosine
from tests.conftest import CONFIGS, EVALUATION, TINY

Cli = Callable[[list[Any]], Path]
# Two epochs of five steps; the first run ends within the first epoch, its schedule is for ten steps.
RUN = [
    *TINY,
    "--trainer.log_every_n_steps=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.num_sanity_val_steps=0",
]
STOPS = ["--trainer.callbacks+=tests.command.test_cli.StopAfterOne"]


def last(run: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return saved


def logged(run: Path, metric: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


def test_a_new_learning_rate_and_weight_decay_apply_from_the_next_step(
    cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    half = cli([*RUN, *STOPS])
    before = last(half)
    changed = ["--model.optimizer.lr=0.001", "--model.optimizer.weight_decay=0.5", "--model.optimizer.betas=[0.5,0.9]"]
    assert cli([*RUN, *changed, "--ckpt_path=last"]) == half
    after = last(half)
    # AdamW's groups with and without decay; 0.001 is for 256 images, and a batch has 32.
    assert [group["initial_lr"] for group in after["optimizer_states"][0]["param_groups"]] == [0.001 / 8] * 2
    assert [group["weight_decay"] for group in after["optimizer_states"][0]["param_groups"]] == [0.5, 0.0]
    assert {tuple(group["betas"]) for group in after["optimizer_states"][0]["param_groups"]} == {(0.5, 0.9)}
    warmup = round(0.5 * 5)
    rates = [peak / 8 * warmup_cosine(step, warmup, 10) for peak in (0.004,) for step in range(5)]
    rates += [0.001 / 8 * warmup_cosine(step, warmup, 10) for step in range(5, 10)]
    assert logged(half, "train/lr") == pytest.approx(rates, rel=1e-6)
    assert "Changed since the checkpoint: model.optimizer.lr, 0.004 → 0.001" in caplog.text
    assert (
        yaml.safe_load((half / "config.yaml").read_text())["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        == 0.001
    )
    assert before["changes"] == []
    (change,) = after["changes"]
    assert change["step"] == 5
    assert change["model.optimizer.lr"] == [0.004, 0.001]


def test_a_new_learning_rate_of_the_online_probe_applies(cli: Cli) -> None:
    half = cli([*RUN, *STOPS])
    cli([*RUN, "--callbacks.online_probe.lr=0.5", "--ckpt_path=last"])
    assert last(half)["callbacks"]["OnlineProbe"]["optimizer"]["param_groups"][0]["lr"] == 0.5


def test_the_card_lists_changes_with_their_steps(cli: Cli) -> None:
    run = cli([*RUN, *STOPS])
    cli([*RUN, "--model.loss.temperature=0.5", "--ckpt_path=last"])
    config = f"--config={CONFIGS / 'evaluate/knn.yaml'}"
    evaluated = cli(["validate", config, f"--model.checkpoint={run / 'checkpoints/last.ckpt'}", *EVALUATION])
    card = json.loads((evaluated / "result.json").read_text())
    assert card["pretraining changed"] == [{"step": 5, "model.loss.temperature": [0.2, 0.5]} | callbacks(card)]


def callbacks(card: dict[str, Any]) -> dict[str, Any]:
    """The callback that stopped the first run is also a change."""
    return {key: value for key, value in card["pretraining changed"][0].items() if key == "trainer.callbacks"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--model.loss.temperature=0.5"], "model.loss.temperature, 0.2 → 0.5"),
        (["--data.views.views=3"], "data.views.views, 2 → 3"),
        (["--trainer.precision=64-true"], "trainer.precision, 32-true → 64-true"),
        (["--trainer.max_epochs=3"], "trainer.max_epochs, 2 → 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_applied_changes_are_reported(cli: Cli, caplog: pytest.LogCaptureFixture, change: list[str], said: str) -> None:
    run = cli([*RUN, *STOPS])
    unchanged = logged(run, "train/loss")
    cli([*RUN, *change, "--ckpt_path=last"])
    assert f"Changed since the checkpoint: {said}" in caplog.text
    assert logged(run, "train/loss")[:5] == unchanged


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"],
            "model.optimizer is AdamW in the checkpoint and SGD",
        ),
        (["--model.encoder.width=4"], "model.encoder.width is 2 in the checkpoint and 4 now"),
        (["--model.encoder.mean=[0,0,0]"], "model.encoder.mean is"),
        (["--model.decay_norm_and_bias=true"], "model.decay_norm_and_bias is False in the checkpoint and True now"),
        (
            ["--data.split_seed=1"],
            "data.split_seed is 0 in the checkpoint and 1 now, and other images would be held out",
        ),
        (["--data.batch_size=16"], "data.batch_size is 32 in the checkpoint and 16 now"),
        (["--seed_everything=1"], "seed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_incompatible_changes_are_refused_without_side_effects(
    cli: Cli, pretrained: Path, capfd: pytest.CaptureFixture, tmp_path: Path, change: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli([*TINY, *change, f"--ckpt_path={pretrained}"])
    assert exit_.value.code == 2
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        ("data.source.share", 0.1, 0.2),
        ("data.source.seed", 0, 1),
        ("data.source.source", {"class_path": "simmim_pl.data.CIFAR10"}, {"class_path": "simmim_pl.data.CIFAR100"}),
    ],
)
def test_the_held_out_test_images_cannot_change(change: Any) -> None:
    with pytest.raises(InputError, match=f"{change[0]} is .* in the checkpoint and .* now, and"):
        require_allowed_changes([change])


def test_a_resumed_run_keeps_its_precision(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    unsaid = [arg for arg in RUN if "precision" not in arg]
    monkeypatch.setattr("simmim_pl.runtime.precision.bfloat16_in_hardware", lambda device: False)
    run = cli([*unsaid, *STOPS])
    monkeypatch.setattr("simmim_pl.runtime.precision.bfloat16_in_hardware", lambda device: True)
    cli([*unsaid, "--ckpt_path=last"])
    assert last(run)["config"]["trainer"]["precision"] == "32-true"


def made(lr: float, decay: float, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR, list[dict[str, Any]]]:
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=lr, weight_decay=decay)
    configured = hyperparameters(optimizer)
    return optimizer, LambdaLR(optimizer, partial(warmup_cosine, warmup=3, steps=steps)), configured


def test_a_checkpoint_of_before_an_argument_existed_resumes() -> None:
    encoder, source = {"width": 2}, {"root": "a"}
    before = {"model": {"encoder": encoder}, "data": {"source": source}}
    added = {"channels": 3, "pool": 1, "whiten": False}
    now = {"model": {"encoder": encoder | added}, "data": {"source": source | {"channels": "rgb"}}}
    assert list(config_changes(before, now)) == []
    now["model"]["encoder"]["channels"] = 1
    assert [key for key, *_ in config_changes(before, now)] == ["model.encoder.channels"]


def test_an_unchanged_restored_optimizer_is_bit_identical() -> None:
    optimizer, schedule, before = made(0.3, 0.1, 30)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    optimizer.param_groups[0]["own"] = 5  # as in some optimizers
    again, schedule_again, now = made(0.3, 0.1, 30)
    again.load_state_dict(optimizer.state_dict())
    schedule_again.load_state_dict(schedule.state_dict())
    apply_changed_hyperparameters(again, schedule_again, before, now)
    assert hyperparameters(again) == hyperparameters(optimizer)
    assert schedule_again.state_dict() == schedule.state_dict()


def test_changes_use_the_command_lines_keys() -> None:
    before = {"a": {"class_path": "x.A", "init_args": {"b": 1, "c": [1, 2]}}, "name": "one", "list": [1]}
    now = {"a": {"class_path": "x.A", "init_args": {"b": 2, "c": [1, 2]}}, "name": "two", "list": [1, 2]}
    assert list(config_changes(before, now)) == [("a.b", 1, 2), ("list", [1], [1, 2])]
    assert list(config_changes(before, {**before, "a": None})) == [("a", before["a"], None)]
    assert list(config_changes(before, before)) == []


@pytest.mark.parametrize("key", ["data.source.label_column", "data.source.source.labels", "data.source.split_column"])
def test_what_decides_which_images_are_held_out_may_not_change(key: str) -> None:
    with pytest.raises(InputError, match=f"{key} is null in the checkpoint and kind now, and"):
        require_allowed_changes([(key, None, "kind")])
