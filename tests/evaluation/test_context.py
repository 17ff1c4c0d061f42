"""One encoder on one data set: every image once and in order, with a feature cache."""

import copy
import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.data import ImageDataModule, Shapes, ShapesClips
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation.context import EvaluationContext, collect
from simmim_pl.evaluation.frozen import RawPixels
from simmim_pl.runtime import atomic, distributed
from simmim_pl.runtime.seeding import uniform


class Held(Source):
    """Given labels on noise; ``None`` for unlabelled."""

    def __init__(self, train: list[int] | None, test: list[int] | None, classes: list[str]) -> None:
        self.labels, self.classes = {"train": train, "test": test}, classes

    def load(self, split: Split) -> ImageDataset:
        labels = self.labels[split]
        number = 12 if labels is None else len(labels)
        noise = torch.randint(256, (number, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return InMemory(noise, None if labels is None else torch.tensor(labels))


def loaded(source: Source, **options: Any) -> ImageDataModule:
    data = ImageDataModule(source, **{"batch_size": 16, "validation": 10, "workers": 0, **options})
    data.setup("fit")
    data.setup("test")
    return data


def shapes(**options: Any) -> ImageDataModule:
    source = {key: options.pop(key) for key in ("seed", "train") if key in options}
    return loaded(Shapes(**{"train": 50, "test": 20, "size": 16, "copies": 1, **source}), **options)


SMALL = shapes()  # shared, not to be changed


def frozen(encoder: Encoder) -> Encoder:
    return encoder.requires_grad_(False).eval()


def small(seed: int = 0, kind: Callable[[int], Encoder] = FastCNN) -> Encoder:
    torch.manual_seed(seed)
    return frozen(kind(2))


def context(
    encoder: Encoder,
    data: ImageDataModule,
    cache: Path | None = None,
    seed: int = 0,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> EvaluationContext:
    return EvaluationContext(encoder, data, "given", torch.device("cpu"), precision, seed, cache)


def calls(encoder: Encoder) -> list[int]:
    """A list of the sizes of encoded batches, except for the blank image at the start."""
    seen: list[int] = []
    encoder.register_forward_hook(lambda _module, inputs, _output: seen.extend([len(inputs[0])] * inputs[0].any()))
    return seen


def bfloat16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("encoder", [small(), frozen(RawPixels())])
def test_features_equal_the_encoders_in_data_set_order(encoder: Encoder) -> None:
    data = SMALL
    for split in ("train", "validation", "test"):
        features, labels = context(encoder, data).features(split)
        images, rows = data.splits[split].dataset, torch.tensor(list(data.splits[split].indices))
        expected = torch.cat([encoder(images.images[row, None] / 255).pooled for row in rows])
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(labels, images.labels[rows])


def test_features_are_extracted_once_per_split_and_context() -> None:
    encoder = small()
    evaluated, seen = context(encoder, SMALL), calls(encoder)
    first = evaluated.features("test")
    assert sum(seen) == 20 + 16  # and the first batch again, to check that it is the same
    assert evaluated.features("test") is first
    assert evaluated.vectors("test")[0] is first[0]
    assert sum(seen) == 36


def test_encoding_accepts_uint8_or_float_and_gives_float32_without_gradient() -> None:
    image = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    evaluated = context(small(), SMALL, precision=bfloat16)
    features = evaluated.encode(image)
    assert features.pooled.dtype == features.feature_map.dtype == torch.float32
    assert not features.pooled.requires_grad
    assert torch.equal(evaluated.encode(image.float() / 255).pooled, features.pooled)
    full = context(small(), SMALL).encode(image)
    assert not torch.equal(full.pooled, features.pooled)  # so the context's precision was used
    torch.testing.assert_close(full.pooled, features.pooled, atol=0.05, rtol=0.05)


def test_clips_give_features_of_every_frame_and_vectors_are_their_mean_over_time() -> None:
    data, encoder = loaded(ShapesClips(train=20, test=10, size=8, frames=3, copies=1), batch_size=4), small()
    evaluated = context(encoder, data)
    features, labels = evaluated.features("test")
    assert features.shape == (10, 3, 16)
    clips = data.splits["test"].dataset.read(torch.arange(10))
    for frame in range(3):
        expected = encoder(clips[:, frame] / 255).pooled
        torch.testing.assert_close(features[:, frame], expected, atol=1e-5, rtol=1e-5)
    vectors, same = evaluated.vectors("test")
    torch.testing.assert_close(vectors, (features[:, 0] + features[:, 1] + features[:, 2]) / 3)
    assert torch.equal(labels, same)


def test_cached_features_are_used(tmp_path: Path) -> None:
    data, cache = SMALL, tmp_path / "made" / "when needed"
    first = context(small(), data, cache)
    written = first.features("test")
    assert files(tmp_path) == [f"{first.key('test')}.pt"]
    stamp = next(cache.iterdir()).stat()
    encoder = small()
    seen, again = calls(encoder), context(encoder, data, cache)
    read = again.features("test")
    assert not seen
    assert all(torch.equal(*pair) for pair in zip(read, written, strict=True))
    assert (next(cache.iterdir()).stat().st_mtime_ns, next(cache.iterdir()).stat().st_ino) == (
        *(stamp.st_mtime_ns, stamp.st_ino),
    )
    again.features("train")
    assert len(files(tmp_path)) == 2


class Wider(FastCNN):
    """Different code with the same weights."""


def test_the_cache_key_depends_on_everything_that_affects_features() -> None:
    data, encoder, changed = SMALL, small(), small()
    next(parameter for parameter in changed.parameters()).data.view(-1)[0] += 1e-6
    statistic = small()
    next(buffer for name, buffer in statistic.named_buffers() if name.endswith("running_var"))[0] += 1e-6
    settings_ = [
        context(encoder, data),
        context(changed, data),
        context(statistic, data),
        context(small(1), data),
        context(small(kind=Wider), data),
        context(encoder, shapes(seed=1)),
        context(encoder, shapes(split_seed=1)),
        context(encoder, shapes(validation=11)),
        context(encoder, data, precision=bfloat16),
        context(encoder, data, precision=lambda: torch.autocast("cpu", torch.float16)),
    ]
    keys = [each.key("train") for each in settings_]
    assert len(set(keys)) == len(keys)
    assert len({context(encoder, data).key(split) for split in ("train", "validation", "test")}) == 3


def test_the_cache_key_depends_on_nothing_else() -> None:
    one, other = context(small(), SMALL), context(small(), shapes(batch_size=7, seed=0), seed=5)
    assert one.key("test") == other.key("test")
    assert one.key("test") == context(small().to(memory_format=torch.channels_last), SMALL).key("test")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a tensor"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"features": torch.zeros(20, 16)}, path),
        lambda path: torch.save(torch.load(path) | {"features": torch.zeros(20, 16)}, path),
        lambda path: torch.save(torch.load(path) | {"label": torch.zeros(20, dtype=torch.int64)}, path),
    ],
)
def test_a_damaged_cache_file_is_ignored_and_replaced(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    data = SMALL
    expected = context(small(), data, tmp_path).features("test")
    (path,) = tmp_path.iterdir()
    whole = path.stat().st_size
    damage(path)
    found = context(small(), data, tmp_path).features("test")
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert path.stat().st_size == whole
    encoder = small()
    seen = calls(encoder)
    context(encoder, data, tmp_path).features("test")
    assert not seen


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_cache_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fails(_features: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    evaluated = context(small(), SMALL, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fails)
        if code == errno.ENOSPC:
            with pytest.raises(atomic.WriteError, match="No space left"):
                evaluated.features("test")
        else:  # an unwritable folder costs time but no result
            with pytest.warns(UserWarning, match=r"cannot be cached in .*Read-only"):
                evaluated.features("test")
    assert not list(tmp_path.iterdir())
    known = evaluated.features("test")
    again = context(small(), SMALL, tmp_path)
    assert all(torch.equal(*pair) for pair in zip(again.features("test"), known, strict=True))
    if code == errno.ENOSPC:
        assert [path.name for path in tmp_path.glob("*.pt")] == [f"{evaluated.key('test')}.pt"]


def test_raw_pixels_are_not_cached(tmp_path: Path) -> None:
    context(frozen(RawPixels()), SMALL, tmp_path).features("test")
    assert not files(tmp_path)


class GivesNaN(FastCNN):
    """Gives NaN for the brightest images of the test split."""

    def __init__(self, width: int, worst: int) -> None:
        super().__init__(width)
        light = SMALL.splits["test"].dataset.images.float().mean((1, 2, 3)) / 255
        self.limit = light.topk(worst).values[-1].item()

    def forward(self, image: Tensor) -> Features:
        found = super().forward(image)
        sick = (image.mean((1, 2, 3)) >= self.limit - 1e-6)[:, None]
        return Features(found.pooled.masked_fill(sick, float("nan")), found.feature_map)


@pytest.mark.parametrize("worst", [1, 20])
def test_non_finite_features_are_refused_and_not_cached(tmp_path: Path, worst: int) -> None:
    evaluated = context(frozen(GivesNaN(2, worst)), SMALL, tmp_path)
    # The same NaN twice is not a change, so the error is about NaN.
    with pytest.raises(InputError, match=f"NaN or infinite features for {worst} of 20 test images"):
        evaluated.features("test")
    assert not files(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_single_non_finite_value_is_found(bad: float) -> None:
    features = torch.randn(5, 3, 4)
    features[2, 1, 3] = bad
    with pytest.raises(InputError, match="for 1 of 5 train images"):
        collect([(features, torch.arange(5), torch.arange(5))], "train")


class Collapsed(Encoder):
    """Gives the same features for every image."""

    def __init__(self, value: float) -> None:
        super().__init__(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), stride=1, feature_map_channels=3)
        self.value = value

    def forward(self, image: Tensor) -> Features:
        return Features(image.new_full((len(image), 4), self.value), image)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e6 + 0.1])
def test_a_collapsed_encoder_is_refused_and_not_cached(value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same features for all 40 train images"):
        context(frozen(Collapsed(value)), SMALL, tmp_path).features("train")
    clips = loaded(ShapesClips(train=20, test=10, size=8, frames=2, copies=1), batch_size=4)
    with pytest.raises(InputError, match="the same features for all 10 test images"):
        context(frozen(Collapsed(value)), clips, tmp_path).features("test")
    assert not files(tmp_path)


def test_one_varying_feature_is_not_a_collapse() -> None:
    features = torch.full((6, 4), 0.1)
    features[3, 2] = 0.2
    assert torch.equal(collect([(features, torch.arange(6), torch.arange(6))], "test")[0], features)
    assert len(collect([(features[:1], torch.arange(1), torch.arange(1))], "test")[0]) == 1  # a single image is allowed


class DrawsRandomly(FastCNN):
    """Its features are random."""

    def forward(self, image: Tensor) -> Features:
        found = super().forward(image)
        return Features(found.pooled + torch.rand(()), found.feature_map)


def test_a_random_encoder_is_refused_and_not_cached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DrawsRandomly gave different features for the same images"):
        context(small(0, DrawsRandomly), SMALL, tmp_path).features("test")
    assert not files(tmp_path)


@given(seed=st.integers(0, 2**20), count=st.integers(1, 30), pieces=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_rows_are_collected_in_order(seed: int, count: int, pieces: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    position = torch.randperm(1000, generator=generator)[:count]
    features = position[:, None] + torch.tensor([0.0, 0.5])
    parts = list(zip(features.chunk(pieces), (3 * position).chunk(pieces), position.chunk(pieces), strict=True))
    found, labels = collect(parts, "train")
    ascending = position.sort().values
    assert torch.equal(found, ascending[:, None] + torch.tensor([0.0, 0.5]))
    assert torch.equal(labels, 3 * ascending)


def test_classes_are_those_of_the_source() -> None:
    data = loaded(Held([0, 0, 1, 1] * 3, [1, 0], ["cat", "dog"]), validation=4)
    assert context(small(), data).classes() == ["cat", "dog"]


def test_a_data_set_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="has no labels"):
        context(small(), loaded(Held(None, None, []), validation=4)).classes()


def test_training_images_of_a_single_class_are_refused() -> None:
    with pytest.raises(InputError, match="of only one class"):
        context(small(), loaded(Held([1] * 8, [1, 1], ["cat", "dog"]), validation=2)).classes()


def test_a_class_missing_in_train_is_refused_by_name() -> None:
    data = loaded(Held([0, 1] * 6, [0, 1, 2], ["cat", "dog", "eel"]), validation=2)
    with pytest.raises(InputError, match="The class eel is in test but not in train"):
        context(small(), data).classes()
    data = loaded(Held([0, 0, 0, 1, 1, 1, 2], [0, 1], ["cat", "dog", "eel"]), validation=0)
    rare = data.splits["train"].dataset
    data.splits |= {"train": Subset(rare, range(6)), "validation": Subset(rare, range(6, 7))}
    with pytest.raises(InputError, match="The class eel is in validation but not in train"):
        context(small(), data).classes()


def test_a_class_without_any_images_is_allowed() -> None:
    data = loaded(Held([0, 1] * 6, [0, 1], ["cat", "dog", "eel"]), validation=2)
    assert context(small(), data).classes() == ["cat", "dog", "eel"]


@pytest.mark.parametrize(("validation", "ranks"), [(0, 1), (3, 4)])
def test_a_split_with_fewer_images_than_ranks_is_refused(
    monkeypatch: pytest.MonkeyPatch, validation: int, ranks: int
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    with pytest.raises(InputError, match=f"The validation split has {validation} images"):
        context(small(), shapes(validation=validation)).features("validation")


def indices(evaluated: EvaluationContext, split: str, epoch: int | None = None) -> list[int]:
    return [int(index) for batch in evaluated.batches(split, epoch) for index in batch["index"]]


@given(seed=st.integers(0, 1000), epoch=st.integers(0, 50), batch=st.integers(1, 50))
@settings(deadline=None, max_examples=20)
def test_a_shuffled_epoch_depends_on_seed_and_epoch_without_repetition(seed: int, epoch: int, batch: int) -> None:
    data, encoder = copy.copy(SMALL), small()
    data.batch_size = batch
    order = indices(context(encoder, data, seed=seed), "train", epoch)
    torch.manual_seed(seed + 1)  # global state does not matter
    assert order == indices(context(encoder, data, seed=seed), "train", epoch)
    whole = data.splits["train"].indices
    size = min(batch, len(whole))
    assert len(set(order)) == len(order) == len(whole) - len(whole) % size  # incomplete batches are dropped
    assert set(order) <= set(whole)
    assert order != indices(context(encoder, data, seed=seed), "train", epoch + 1)
    assert order != indices(context(encoder, data, seed=seed + 1 + epoch + 1), "train", epoch)
    evaluated = context(encoder, data, seed=seed)
    assert evaluated.batch("train") == size
    assert evaluated.steps("train") == len(list(evaluated.batches("train", epoch)))
    assert indices(evaluated, "train") == list(data.splits["train"].indices)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_a_split(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    data = shapes(train=53, batch_size=4 * ranks)  # 43 of train
    one = [sorted(int(index) for index in batch["index"]) for batch in context(small(), data).batches("train", 3)]
    shares: list[int] = []
    seen: list[int] = []
    lengths, steps = set(), set()
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    for rank in range(ranks):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        evaluated = context(small(), data)
        shares += indices(evaluated, "train")
        epoch = indices(evaluated, "train", 3)
        seen += epoch
        lengths.add(len(epoch))
        steps |= {evaluated.steps("train"), len(list(evaluated.batches("train", 3)))}
        assert evaluated.batch("train") == 4 * ranks
    whole = data.splits["train"].indices
    assert sorted(shares) == whole  # each image once
    assert len(lengths) == len(steps) == 1  # the same number of steps on all ranks
    dealt = torch.tensor(seen).view(ranks, -1, 4).transpose(0, 1).flatten(1)
    assert [sorted(batch) for batch in dealt.tolist()] == one  # the batches of one process


def test_random_numbers_depend_on_seed_and_step_and_are_divided_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int, step: int) -> float:
        return uniform(context(small(), SMALL, seed=seed).generator(step), 1, along=0).item()

    assert draw(0, 1) == draw(0, 1)
    first = {draw(0, 1), draw(0, 2), draw(1, 1)}
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert len(first | {draw(0, 1)}) == 4


def test_clips_and_an_empty_validation_split_are_refused_where_unsupported() -> None:
    clips = loaded(ShapesClips(train=20, test=20, size=16, copies=1, frames=2), validation=5)
    usual = context(small(), SMALL)
    usual.require_stills()
    usual.require_validation()
    with pytest.raises(InputError, match="ShapesClips holds clips"):
        context(small(), clips).require_stills()
    with pytest.raises(InputError, match="The validation split is empty"):
        context(small(), shapes(validation=0)).require_validation()


def test_the_cache_key_includes_settings_outside_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other, counted = small(), small(), small()
    first = context(usual, SMALL).key("test")
    assert context(small(), SMALL).key("test") == first
    other.net[0][1].eps = 0.1  # type: ignore[index]
    counted.wide = True  # type: ignore[assignment]
    assert len({first, context(other, SMALL).key("test"), context(counted, SMALL).key("test")}) == 3
    monkeypatch.setattr("simmim_pl.evaluation.context.source_code", lambda encoder: "forward was edited")
    assert context(usual, SMALL).key("test") != first


def test_an_error_on_one_rank_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_ranks", lambda flag: False)  # another rank failed
    with pytest.raises(InputError, match="Another device stopped"):
        context(small(), SMALL).features("test")
