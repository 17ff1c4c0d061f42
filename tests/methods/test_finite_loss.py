"""The step of the first non-finite loss is named, although losses are read later."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from simmim_pl.callbacks import Checkpoint
from simmim_pl.contracts import InputError
from simmim_pl.encoders import FastCNN
from simmim_pl.methods.finite_loss import FiniteLoss
from simmim_pl.methods.method import Output
from simmim_pl.runtime import distributed
from tests.methods.test_method import Smallest, fit, sgd


def losses(*values: float) -> FiniteLoss:
    read = FiniteLoss()
    for step, value in enumerate(values):
        read.add(step, torch.tensor(value, requires_grad=True))
    return read


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_step_of_the_first_non_finite_loss_is_named(bad: float) -> None:
    with pytest.raises(InputError, match=f"became {bad} at step 2;"):
        losses(1.0, 2.0, bad, 3.0, math.nan).read()


def test_the_last_loss_is_kept() -> None:
    read = losses(1.0, 2.0)
    assert [read.read().item(), read.read().item()] == [2.0, 2.0]
    assert not read.read().requires_grad
    read.add(2, torch.tensor(5.0))
    assert read.read().item() == 5.0


def test_the_loss_is_averaged_over_ranks_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(distributed, "all_reduce_mean", lambda mine: sent.append(mine) or (mine + 10) / 2)
    assert losses(1.0, 2.0).read().item() == 6.0
    assert [part.tolist() for part in sent] == [[1.0, 2.0]]


class Jumps(Smallest):
    """Its second logged loss is infinite; gradients and weights stay finite."""

    def finish(self, loss: torch.Tensor, *rest: Any) -> Output:
        return super().finish(loss + (math.inf if self.global_step == 1 else 0), *rest)


@pytest.mark.parametrize(
    ("reader", "step"),
    [
        ({"log_every_n_steps": 3}, 2),
        ({"val_check_interval": 3, "limit_val_batches": 1, "num_sanity_val_steps": 0}, 3),
        ({"callbacks": [Checkpoint(every_n_steps=3)], "enable_checkpointing": True}, 3),
        ({}, 4),
        ({"max_steps": 3}, 3),
    ],
    ids=["log", "validation", "checkpoint", "last batch", "last step"],
)
def test_losses_are_checked_before_validation_and_checkpoints(
    tmp_path: Path, reader: dict[str, Any], step: int
) -> None:
    module = Jumps(FastCNN(2), optimizer=sgd)
    with pytest.raises(InputError, match="became inf at step 1;"):
        fit(tmp_path, module, **reader)
    assert module.global_step == step
    assert not list(tmp_path.rglob("*.ckpt"))
