"""Keeping images on the device does not change batches; where it is not possible, an error says so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, ShapesClips
from simmim_pl.data.on_device import OnDevice, settle
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split, whole
from tests.data.test_datamodule import CPU, Noisy, Recorder, on_rank, trainer

GPU = torch.device("cuda", 0)


class Plain(Source):
    """Images whose pixels equal their position in the split."""

    def __init__(self, labelled: bool = True) -> None:
        self.classes = ["even", "odd"] if labelled else []

    def load(self, split: Split) -> InMemory:
        position = torch.arange(26)
        images = position.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        found = InMemory(images, position % 2 if self.classes else None)
        found.files = [f"{split}/{i}.png" for i in range(26)]
        return found


def recorded(root: Path, where: Any, labelled: bool, **options: Any) -> tuple[ImageDataModule, Recorder]:
    """All batches of two training epochs with validation, a test and a prediction."""
    data = ImageDataModule(Plain(labelled), 4, views=Noisy(), validation=5, on_device=where)
    recorder, runner = Recorder(), trainer(root, 2, **options)
    runner.fit(recorder, datamodule=data)
    runner.test(recorder, datamodule=data, verbose=False)
    runner.predict(recorder, datamodule=data)
    return data, recorder


@pytest.mark.parametrize("labelled", [True, False])
def test_batches_are_bit_identical(tmp_path: Path, labelled: bool) -> None:
    (host, usual), (device, other) = (recorded(tmp_path, where, labelled) for where in (False, True))
    assert not isinstance(whole(host.splits["train"]), OnDevice)
    assert all(isinstance(whole(split), OnDevice) for split in device.splits.values())
    assert whole(host.splits["train"]).digest() == whole(device.splits["train"]).digest()
    for stage, batches in usual.batches.items():
        assert len(batches) == len(other.batches[stage]) > 0
        for mine, theirs in zip(batches, other.batches[stage], strict=True):
            assert set(mine) == set(theirs)
            assert all(
                torch.equal(part, theirs[name]) and part.dtype == theirs[name].dtype for name, part in mine.items()
            )
    for mine, theirs in zip(host.reference_dataloader(), device.reference_dataloader(), strict=True):
        assert all(torch.equal(part, theirs[name]) for name, part in mine.items())


def test_ranks_and_a_resumed_run_get_the_same_batches() -> None:
    for rank, start in ((0, (0, 0)), (1, (0, 0)), (1, (3, 1))):
        loaders = []
        for where in (False, True):
            data = ImageDataModule(Plain(), 8, views=Noisy(), validation=5, on_device=where)
            data.setup("fit")
            data.start = start
            loaders.append([batch["index"].tolist() for batch in on_rank(data, rank, 2).train_dataloader()])
        assert loaders[0] == loaders[1]
        assert len(loaders[0]) == 2 - (start == (3, 1))


class Free:
    """A mock GPU with this much memory."""

    def __init__(self, free: int, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
        patch.setattr(Tensor, "to", lambda self, device: self)


@pytest.mark.parametrize(
    ("free", "auto", "asked"), [(4 * 312, True, True), (4 * 312 - 1, False, True), (311, False, None)]
)
def test_auto_uses_a_quarter_of_gpu_memory_and_true_all_of_it(
    monkeypatch: pytest.MonkeyPatch, free: int, auto: bool, asked: bool
) -> None:
    images = Plain().load("train")  # of 312 bytes
    Free(free, monkeypatch)
    assert isinstance(settle(images, "auto", GPU), OnDevice) is auto
    assert settle(images, False, GPU) is images
    if asked:
        assert isinstance(settle(images, True, GPU), OnDevice)
    else:
        with pytest.raises(InputError, match=r"take 0\.0 GB, and the GPU has 0\.0 GB free: set --data\.on_device auto"):
            settle(images, True, GPU)


def test_on_a_cpu_images_are_not_copied() -> None:
    images = Plain().load("train")
    assert settle(images, "auto", CPU) is images


class Decoded(InMemory):
    """Overrides ``read``."""

    def read(self, index: Tensor) -> Tensor:
        return super().read(index).flip(-1)


def masked() -> ImageDataset:
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    return InMemory(images, None, torch.zeros(4, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    "images",
    [
        masked,
        lambda: InMemory(torch.zeros(4, 5, 3, 2, 2, dtype=torch.uint8), None),
        lambda: Decoded(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), None),
        lambda: ShapesClips(train=10, test=10, size=16).load("train"),
    ],
    ids=["masks", "clips in memory", "read by code of its own", "clips made as they are read"],
)
def test_other_sources_stay_on_the_host_and_are_refused_with_true(images: Any) -> None:
    made = images()
    assert settle(made, "auto", GPU) is made
    with pytest.raises(InputError, match=r"--data\.on_device true is for images that are held in memory"):
        settle(made, True, GPU)


def test_file_names_are_available_on_the_device() -> None:
    data = ImageDataModule(Plain(), 4, on_device=True)
    data.setup("fit")
    split = data.splits["validation"]
    assert isinstance(split, Subset)
    assert whole(split).files == Plain().load("train").files
