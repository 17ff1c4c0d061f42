"""Constants are created once per device and dtype."""

import torch

from simmim_pl.runtime.constants import constant

CPU = torch.device("cpu")


def test_a_constant_is_made_once() -> None:
    first = constant((1.0, 2.0), CPU)
    assert first is constant((1.0, 2.0), CPU)
    assert first.tolist() == [1.0, 2.0]


def test_constants_are_separate_by_dtype() -> None:
    assert constant((1.0, 2.0), CPU).dtype == torch.float32
    assert constant((1, 2), CPU, torch.int64).dtype == torch.int64


def test_a_constant_made_in_inference_mode_can_be_used_in_training() -> None:
    with torch.inference_mode():
        made = constant((3.0, 5.0), CPU)
    weight = torch.ones(2, requires_grad=True)
    (weight * made).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 5.0]
