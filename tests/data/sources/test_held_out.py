"""Held-out training images instead of test images."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.contracts import InputError
from simmim_pl.data import HeldOut, ImageDataModule, ImageDataset, InMemory, Shapes, Source
from simmim_pl.data.on_device import OnDevice, settle
from simmim_pl.data.source import Split


class Lazy(InMemory):
    """Images that are read on request."""

    def read(self, index: torch.Tensor) -> torch.Tensor:
        return self.images[index]


class Lines(Source):
    """A number of images, with all pixels of image i equal to i; the test split must not be loaded."""

    def __init__(self, counts: list[int], lazy: bool = False) -> None:
        self.counts, self.lazy = counts, lazy

    def load(self, split: Split) -> ImageDataset:
        assert split == "train"
        self.classes = [str(number) for number in range(len(self.counts))]
        labels = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
        found = Lazy(pixels, labels) if self.lazy else InMemory(pixels, labels)
        found.files = [f"{number}.png" for number in range(len(labels))]
        return found


def places(images: ImageDataset) -> list[int]:
    batch = images.__getitems__(range(len(images)))
    assert batch["image"].shape == (len(images), 3, 2, 2)
    return batch["image"][:, 0, 0, 0].tolist()


@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.floats(0.05, 0.9), st.booleans(), st.integers(0, 3))
def test_the_two_parts_are_a_stratified_split_of_the_training_images(
    counts: list[int], share: float, lazy: bool, seed: int
) -> None:
    source = HeldOut(Lines(counts, lazy), share, seed)
    if not 0 < round(share * sum(counts)) < sum(counts):
        with pytest.raises(InputError, match="leaves one part empty"):
            source.load("train")
        return
    parts: dict[Any, ImageDataset] = {split: source.load(split) for split in ("train", "test")}  # type: ignore[arg-type]
    found = {split: places(images) for split, images in parts.items()}
    assert sorted(found["train"] + found["test"]) == list(range(sum(counts)))
    assert len(found["test"]) == round(share * sum(counts))
    whole = Lines(counts).load("train")
    for split, images in parts.items():
        assert images.labels is not None
        assert whole.labels is not None
        assert torch.equal(images.labels, whole.labels[found[split]])
        assert images.files == [f"{number}.png" for number in found[split]]
    held = torch.bincount(parts["test"].labels, minlength=len(counts))
    assert (held - share * torch.tensor(counts)).abs().max() < 1.5
    assert source.classes == [str(number) for number in range(len(counts))]


def test_a_part_in_memory_can_be_kept_on_the_device() -> None:
    held = HeldOut(Lines([50, 50])).load("test")
    moved = settle(held, True, torch.device("cpu"))
    assert isinstance(moved, OnDevice)
    assert places(moved) == places(held)
    assert moved.labels is not None
    assert torch.equal(moved.labels, held.labels)
    assert moved.files == held.files
    with pytest.raises(InputError, match="held in memory"):
        settle(HeldOut(Lines([50, 50], lazy=True)).load("test"), True, torch.device("cpu"))


def test_digests_depend_on_part_and_seed() -> None:
    for lazy in (False, True):
        sources = [HeldOut(Lines([50, 50], lazy), seed=seed) for seed in (0, 0, 1)]
        first, same, other = ({split: each.load(split) for split in ("train", "test")} for each in sources)  # type: ignore[arg-type]
        assert first["train"].digest() == same["train"].digest() != first["test"].digest()
        assert first["test"].digest() == same["test"].digest() != other["test"].digest()


def test_the_test_part_is_disjoint_from_validation() -> None:
    source = HeldOut(Shapes(train=100, test=10, size=16, copies=1), share=0.2)
    data = ImageDataModule(source, batch_size=8, validation=10)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert {split: len(data.splits[split]) for split in ("train", "validation", "test")} == {
        "train": 70, "validation": 10, "test": 20,
    }  # fmt: skip
    assert source.name == "Shapes (held out)"
    assert data.classes == source.source.classes


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_one_part_empty_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        HeldOut(Shapes(), share)


def test_masks_are_split_too() -> None:
    class Both(Source):
        classes, mask_classes = ["a"], ["b"]

        def load(self, split: Split) -> ImageDataset:
            pixels, masks = torch.zeros(10, 3, 2, 2).byte(), torch.arange(40).view(10, 2, 2).byte()
            return InMemory(pixels, None, masks)

    source = HeldOut(Both(), 0.3)
    held = source.load("test")
    assert held.labels is None
    assert held.masks is not None
    assert held.masks.shape == (3, 2, 2)
    assert source.mask_classes == ["b"]
