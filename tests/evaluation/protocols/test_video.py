"""The video probe: each variant learns only what its part of a clip shows."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, Shapes, ShapesClips
from simmim_pl.data.source import InMemory, Source
from simmim_pl.evaluation import LinearProbe, VideoProbe
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import RawPixels
from simmim_pl.evaluation.protocol import Result
from simmim_pl.evaluation.protocols.video import TemporalHead
from simmim_pl.evaluation.training import LRSearch

TRAIN, TEST, FRAMES = 96, 80, 4
SWEEP = LRSearch((0.3, 1e-5), "adam", epochs=30)
VARIANTS = ["one frame", "mean of frames", "temporal head"]


class Clips(Source):
    """Clips of 2×2 pixels in memory, made by a function of the labels and a generator."""

    def __init__(self, falsify: bool = False) -> None:
        self.classes = ["one", "other"]
        self.falsify = falsify

    def load(self, split: str) -> InMemory:
        generator = torch.Generator().manual_seed(len(split))
        number = {"train": TRAIN, "test": TEST}[split]
        labels = torch.arange(number) % 2
        clips = self.draw(labels, generator) + torch.randint(0, 20, (number, FRAMES, 3, 2, 2), generator=generator)
        shown = 1 - labels if split == "test" and self.falsify else labels
        return InMemory(clips.to(torch.uint8), shown)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("a subclass draws the clips")


class Brightness(Clips):
    """Every frame shows the class: one is bright, the other dark."""

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        return (60 + 120 * labels)[:, None, None, None, None].expand(-1, FRAMES, 3, 2, 2)


class Direction(Clips):
    """A bright pixel moves around the four positions once per clip, from a random start: the class is the direction."""

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        start = torch.randint(4, (len(labels), 1), generator=generator)
        place = (start + torch.arange(FRAMES) * (2 * labels[:, None] - 1)) % 4
        return 200 * F.one_hot(place, 4).unflatten(2, (1, 2, 2)).expand(-1, -1, 3, -1, -1)


class Middle(Clips):
    """Only the middle frame shows the class; the others are equal."""

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        clips = torch.full((len(labels), FRAMES, 3, 2, 2), 100)
        clips[:, FRAMES // 2] += 120 * labels[:, None, None, None]
        return clips


def context(source: Source, validation: int = 24) -> EvaluationContext:
    data = ImageDataModule(source, batch_size=16, validation=validation, workers=0)
    data.setup("fit")
    data.setup("test")
    return EvaluationContext(RawPixels().eval(), data, "given", torch.device("cpu"), nullcontext)


def evaluate(on: EvaluationContext, lr_search: LRSearch = SWEEP, hidden: int = 16) -> dict[str, Result]:
    results = VideoProbe(l2=(1e-1, 1e-3), hidden=hidden, lr_search=lr_search).evaluate(on)
    assert [result.variant for result in results] == VARIANTS
    return {result.variant: result for result in results}


def accuracy(result: Result) -> float:
    value: float = result.metrics["accuracy"].value
    return value


def near_chance(result: Result, chance: float, number: int) -> bool:
    """Within 3.5 standard deviations of chance."""
    return abs(accuracy(result) - chance) < 3.5 * math.sqrt(chance * (1 - chance) / number)


def test_all_variants_learn_what_every_frame_shows() -> None:
    assert [accuracy(result) for result in evaluate(context(Brightness())).values()] == [1, 1, 1]


def test_only_the_temporal_head_learns_direction() -> None:
    found = evaluate(context(Direction()))
    assert accuracy(found["temporal head"]) > 0.95
    assert near_chance(found["one frame"], 0.5, TEST)
    assert near_chance(found["mean of frames"], 0.5, TEST)


def test_the_single_frame_is_the_middle_one() -> None:
    assert accuracy(evaluate(context(Middle()), LRSearch((1e-3,), epochs=1))["one frame"]) == 1


def test_the_mean_of_frames_equals_the_linear_probe_of_clips() -> None:
    on = context(Middle())
    mean = evaluate(on, LRSearch((1e-3,), epochs=1))["mean of frames"]
    (probe,) = LinearProbe(l2=(1e-1, 1e-3)).evaluate(on)
    assert mean.metrics == probe.metrics
    assert mean.confusion == probe.confusion
    assert mean.chosen == probe.chosen


def test_no_single_frame_of_procedural_clips_shows_the_rotation() -> None:
    on = context(ShapesClips(train=200, test=150, size=16, copies=1, frames=3), validation=40)
    assert near_chance(evaluate(on, LRSearch((1e-3,), epochs=1), hidden=2)["one frame"], 0.25, 150)


def test_the_learning_rate_is_selected_on_validation_and_test_labels_only_score() -> None:
    one, other = (evaluate(context(Direction(falsify)))["temporal head"] for falsify in (False, True))
    tried = one.chosen["validation accuracy by lr"]
    assert list(tried) == ["1e-05", "0.3"]
    assert tried["0.3"] > tried["1e-05"]
    assert one.chosen["lr"] == 0.3
    assert other.chosen == one.chosen
    assert accuracy(one) + accuracy(other) == pytest.approx(1)


@pytest.mark.parametrize(("size", "seen"), [(16, 16), (500, 72)])
def test_learning_rates_are_for_the_clips_that_a_step_sees(
    size: int, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    train = LRSearch.train
    monkeypatch.setattr(LRSearch, "train", lambda self, *args: asked.append(args[3]) or train(self, *args))
    on = context(Brightness())
    on.data.batch_size = size
    evaluate(on, LRSearch((1e-3,), epochs=1), hidden=2)
    assert asked == [seen]


def test_results_depend_on_the_seed_and_not_on_global_state() -> None:
    on, found = context(Direction()), []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(evaluate(on, LRSearch((0.03,), epochs=2)))
    assert found[0] == found[1]


def test_the_temporal_head_sees_order_and_the_number_of_frames_is_free() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head, frames = TemporalHead(3, 8, 2), torch.randn(4, 5, 3)
    assert head(frames).shape == head(frames[:, :2]).shape == (4, 2)
    assert not torch.allclose(head(frames), head(frames.flip(1)), atol=1e-3)
    still = frames[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(head(still), head(still.flip(1)))


def test_images_and_an_empty_validation_split_are_refused() -> None:
    with pytest.raises(InputError, match="Shapes holds images, and a video probe needs clips"):
        evaluate(context(Shapes(train=50, test=20, size=16, copies=1)))
    with pytest.raises(InputError, match="The validation split is empty"):
        evaluate(context(Brightness(), validation=0))
