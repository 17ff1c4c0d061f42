"""BYOL's loss equals the published one, and a collapsed network is detected."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor

from simmim_pl.callbacks import CollapseMonitor, OnlineProbe, Representation
from simmim_pl.contracts import Features
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.methods import BYOL
from simmim_pl.methods.byol import prediction_error
from simmim_pl.metrics import verdict
from tests.methods.test_self_distillation import fit


def test_the_loss_equals_lightly_in_value_and_gradient() -> None:
    q = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    k = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    lightly = NegativeCosineSimilarity()
    expected = 2 + lightly(q[0], k.detach()) + lightly(q[1], k.detach())  # 2 - 2 cos, the mean over two views
    found = prediction_error(q, k)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, q)[0] for loss in (found, expected)))
    found = prediction_error(q, k)
    found.backward()
    assert k.grad is None


def test_the_loss_is_0_for_equal_directions() -> None:
    q = torch.randn(1, 4, 3, dtype=torch.float64)
    assert prediction_error(q, 5 * q[0]).item() == pytest.approx(0, abs=1e-12)
    assert prediction_error(-q, q[0]).item() == pytest.approx(4)
    half = torch.randn(1, 4, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert prediction_error(half, half[0].float()).dtype == torch.float32


class Collapsed(FastCNN):
    """Gives all images the same features."""

    def forward(self, image: Tensor) -> Features:
        found = super().forward(image)
        return found._replace(pooled=0 * found.pooled + 1)


def test_a_collapse_with_loss_0_is_detected(tmp_path: Path) -> None:
    one = partial(ProjectionHead, num_layers=1, output_dim=8)
    module = BYOL(Collapsed(2), one, one, optimizer=partial(torch.optim.SGD, lr=0.0))
    with torch.no_grad():
        module.predictor.mlp[0].weight.copy_(torch.eye(8))
    monitor: Any = CollapseMonitor()
    fit(tmp_path, module, [OnlineProbe(), Representation(), monitor], validated=True, max_epochs=2)
    last = monitor.validations[-1]
    assert last["train/loss"] < 1e-4  # the minimum
    assert "train/loss_at_chance" not in last
    found = verdict([metrics | {"step": 6000} for metrics in monitor.validations])
    assert found.state == "complete collapse"
    assert found.alarming
    assert monitor.raised == ["complete collapse"]
    assert not any("loss" in words for words in found.support)
