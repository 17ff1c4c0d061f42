"""The teacher is the moving average of the trained network, with a momentum that rises to 1."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.utils.scheduler import cosine_schedule
from torch import nn

from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.methods.teacher import Teacher, cosine_momentum


def network() -> tuple[FastCNN, ProjectionHead, Teacher]:
    torch.manual_seed(0)
    encoder, head = FastCNN(2).double(), ProjectionHead(16, hidden_dim=4, output_dim=3, norm=True).double()
    return encoder, head, Teacher(encoder, head)


@given(steps=st.integers(1, 50), base=st.floats(0, 1))
def test_the_momentum_equals_lightlys_schedule(steps: int, base: float) -> None:
    for step in range(steps + 1):  # lightly's schedule ends at the last step, ours after it
        expected = cosine_schedule(step, steps + 1, base, 1.0)
        assert cosine_momentum(step, steps, base) == pytest.approx(expected, abs=1e-12)


def test_three_updates_equal_a_plain_loop() -> None:
    encoder, head, teacher = network()
    expected = [parameter.clone() for parameter in (*encoder.parameters(), *head.parameters())]
    for momentum in (0.9, 0.996, 0.0):
        for parameter in (*encoder.parameters(), *head.parameters()):
            parameter.data += torch.randn_like(parameter)
        teacher.update(encoder, head, momentum)
        trained = [*encoder.parameters(), *head.parameters()]
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, trained, strict=True)]
        for found, wanted in zip(teacher.parameters(), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-14, rtol=1e-14)
    before = [parameter.clone() for parameter in teacher.parameters()]
    head.mlp[0].weight.data += 1
    teacher.update(encoder, head, 1.0)
    assert all(torch.equal(*pair) for pair in zip(before, teacher.parameters(), strict=True))


def test_the_teacher_is_a_copy_without_gradient_and_with_its_own_batch_statistics() -> None:
    encoder, head, teacher = network()
    views = torch.rand(2, 5, 3, 16, 16, dtype=torch.float64)
    features, z = teacher.project(views)
    assert not features.requires_grad
    assert not z.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.testing.assert_close(z.flatten(0, 1), head(encoder(views.flatten(0, 1)).pooled))
    norms = [part for part in teacher.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [int(part.num_batches_tracked) for part in norms] == [1] * len(norms)
    teacher.project(views)
    trained = [part for part in (*encoder.modules(), *head.modules()) if hasattr(part, "num_batches_tracked")]
    teacher.update(encoder, head, 0.5)
    assert {int(part.num_batches_tracked) for part in norms} == {2}
    assert {int(part.num_batches_tracked) for part in trained} == {1}
