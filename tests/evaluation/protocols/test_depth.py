"""Accuracy against depth: each layer's result equals its linear probe's, in one pass, and the report plots it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.data import ShapesClips
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.layer import Layer
from simmim_pl.evaluation import Depth, Evaluation, FineTune, LinearProbe
from simmim_pl.views import CropFlip
from tests.evaluation.test_context import bfloat16, calls, context, frozen, loaded, shapes, small

L2 = [0.1, 0.001]


def test_each_layer_equals_its_linear_probe_in_one_pass() -> None:
    encoder, data = small(), shapes()
    seen = calls(encoder)
    results = Depth(L2).evaluate(context(encoder, data, precision=bfloat16))
    assert sum(seen) == 40 + 10 + 20 + (16 + 10 + 16)  # and the first batch of each split again
    assert [result.variant for result in results] == encoder.layers()
    assert [result.depth for result in results] == list(range(1, 8))
    assert len({result.metrics["accuracy"].value for result in results}) > 2
    for result in (results[0], results[3]):
        one = context(frozen(Layer(encoder, result.variant)), data, precision=bfloat16)
        (expected,) = LinearProbe(L2).evaluate(one)
        assert result == replace(expected, confusion=None, variant=result.variant, depth=result.depth)


def test_clips_are_evaluated_by_the_mean_of_frames() -> None:
    data, encoder = loaded(ShapesClips(train=30, test=12, size=16)), small()
    results = Depth(L2).evaluate(context(encoder, data))
    (expected,) = LinearProbe(L2).evaluate(context(encoder, data))
    assert results[-1].metrics == expected.metrics  # the last layer is the output


def test_the_cache_separates_layers(tmp_path: Path) -> None:
    encoder, data = small(), shapes()

    def features(read: Encoder) -> torch.Tensor:
        seen = calls(read)
        found = context(frozen(read), data, tmp_path).features("test")[0]
        known.append(not seen)
        return found

    known: list[bool] = []
    names = ["net.3", "net.4", "net.6"]  # of which the latter two have as many channels
    first = [features(Layer(encoder, name)) for name in names]
    again = [features(Layer(encoder, name)) for name in names]
    assert known == [False] * 3 + [True] * 3
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[1], first[2])
    assert len(list(tmp_path.iterdir())) == 3
    assert torch.equal(features(encoder), features(Layer(encoder, "net.9")))  # the output, under another key
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("protocol", [FineTune(CropFlip()), Depth()])
def test_protocols_of_the_whole_network_are_refused_with_a_layer(protocol: FineTune | Depth) -> None:
    with pytest.raises(
        InputError, match=f"{type(protocol).__name__} evaluates the whole network: remove --model.layer"
    ):
        Evaluation([LinearProbe(), protocol], encoder=FastCNN(2), layer="net.4")


def test_a_layer_that_changes_is_detected() -> None:
    class Cheat(FastCNN):
        def forward(self, image: torch.Tensor) -> Features:
            self.net[0][1].running_mean.add_(1e-3)
            return super().forward(image)

    torch.manual_seed(0)
    with pytest.raises(InputError, match="changed while it was evaluated"):
        Depth(L2).evaluate(context(frozen(Cheat(2)), shapes()))
