"""Validation of sources: errors say what was found and what is required."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data import CIFAR10, Folder, ImageDataModule, Shapes
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.data.validate import load_split
from tests.conftest import QUIET, TINY
from tests.forked import Program, environment

GOOD = torch.arange(6 * 3 * 4 * 5).view(6, 3, 4, 5).remainder(256).to(torch.uint8)
LABELS = torch.arange(6) % 3
MASKS = torch.zeros(6, 4, 5, dtype=torch.uint8)


class Read(ImageDataset):
    """A user's data set, whose ``read`` returns rows of any given data."""

    def __init__(self, held: Any, labels: Any = None, masks: Any = None, clips: bool = False) -> None:
        super().__init__(None, workers=False, clips=clips, masks=masks)
        self.held, self.labels = held, labels

    def __len__(self) -> int:
        return 6

    def read(self, index: Tensor) -> Any:
        return self.held[index]

    def digest(self) -> str:
        return "0" * 16


class Own(Source):
    """A user's source."""

    def __init__(self, images: ImageDataset, classes: Any = ("a", "b", "c"), mask_classes: Any = ("x", "y")) -> None:
        self.images, self.classes, self.mask_classes = images, classes, mask_classes

    def load(self, split: Split) -> ImageDataset:
        return self.images


PIXELS = {
    "floats in [0, 1]": (GOOD / 255, r"float32 \[4, 3, 4, 5\], and uint8 \[4, C, H, W\] is required.*multiply floats"),
    "whole numbers": (GOOD.long(), r"int64 \[4, 3, 4, 5\], and uint8"),
    "channels last": (GOOD.movedim(1, 3), r"uint8 \[4, 4, 5, 3\].* before height and width"),
    "no channel": (GOOD[:, 0], r"uint8 \[4, 4, 5\]"),
    "an array": (GOOD.numpy(), "as ndarray, and a torch.Tensor is required"),
    "pixels of 0 and 1": ((GOOD / 255).round().to(torch.uint8), "pixels of 0 and 1 only, and 0 to 255 is required"),
    "no pixels": (GOOD[..., :0], r"uint8 \[4, 3, 4, 0\]"),
}


@pytest.mark.parametrize("name", PIXELS)
def test_invalid_pixels_are_refused_before_a_batch_is_made(name: str) -> None:
    held, says = PIXELS[name]
    with pytest.raises(InputError, match=says):
        ImageDataModule(Own(Read(held, LABELS)), batch_size=2).setup("fit")


@pytest.mark.parametrize("name", [name for name, (held, _) in PIXELS.items() if isinstance(held, Tensor)])
def test_an_invalid_tensor_in_memory_is_refused_on_creation_or_loading(name: str) -> None:
    with pytest.raises(InputError, match=r"InMemory gave pixels as .* is required|0 and 1 only"):
        load_split(Own(InMemory(PIXELS[name][0], LABELS)), "train")


def test_a_wrong_number_of_images_is_refused() -> None:
    class Short(Read):
        def read(self, index: Tensor) -> Any:
            return self.held[index[:-1]]

    with pytest.raises(InputError, match=r"Short gave pixels as uint8 \[3, 3, 4, 5\], and uint8 \[4, C, H, W\]"):
        load_split(Own(Short(GOOD)), "train")


def test_images_and_clips_are_not_interchangeable() -> None:
    with pytest.raises(InputError, match=r"uint8 \[4, T, C, H, W\] of clips is required"):
        load_split(Own(Read(GOOD, clips=True)), "train")
    with pytest.raises(InputError, match=r"uint8 \[4, 2, 3, 4, 5\]"):
        load_split(Own(Read(GOOD[:, None].repeat(1, 2, 1, 1, 1))), "train")
    load_split(Own(Read(GOOD[:, None].repeat(1, 2, 1, 1, 1), clips=True)), "train")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (LABELS.float(), r"labels as float32 \[6\], and int64 \[6\] is required"),
        (LABELS.int(), r"labels as int32 \[6\], and int64"),
        (LABELS[:5], r"labels as int64 \[5\], and int64 \[6\]"),
        (LABELS[:, None], r"labels as int64 \[6, 1\]"),
        (LABELS.tolist(), "labels as list, and a torch.Tensor is required"),
        (LABELS + 1, "labels from 1 to 3, and its source names 3 classes"),
        (LABELS - 1, "labels from -1 to 1"),
    ],
)
def test_invalid_labels_are_refused(labels: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"The train split of Own has {says}"):
        load_split(Own(Read(GOOD, labels)), "train")


def test_labels_need_class_names() -> None:
    source = Own(Read(GOOD, LABELS))
    del source.classes
    with pytest.raises(InputError, match="set classes to the list of their names"):
        load_split(source, "train")
    source.images.labels = None
    load_split(source, "train")


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (MASKS.long(), r"masks as int64 \[6, 4, 5\], and uint8 \[6, 4, 5\] is required"),
        (MASKS[:3], r"masks as uint8 \[3, 4, 5\]"),
        (MASKS[:, None], r"masks as uint8 \[6, 1, 4, 5\], and uint8 \[6, H, W\]"),
        (MASKS + 2, "masks with the id 2, and its source names 2 mask_classes"),
        (MASKS.repeat(1, 2, 2), r"masks of \[8, 10\] and images of \[4, 5\] pixels"),
    ],
)
def test_invalid_masks_are_refused(masks: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=f"The train split of Own has {says}"):
        load_split(Own(Read(GOOD, None, masks)), "train")


def test_valid_data_pass() -> None:
    masks = MASKS.clone()
    masks[0, 0] = torch.tensor([0, 1, 255, 1, 0])
    for images in (
        Read(GOOD, LABELS, masks),
        InMemory(GOOD, LABELS, masks),
        InMemory(GOOD, None),
        Read(GOOD[:, :, :1]),
    ):
        assert load_split(Own(images), "train") is images
    assert len(load_split(Shapes(train=20, test=10, size=16), "test")) == 10
    assert len(load_split(Own(InMemory(GOOD[:0], None)), "train")) == 0
    black = InMemory(torch.zeros_like(GOOD), None)
    assert load_split(Own(black), "train") is black  # dark, but not scaled wrongly


def test_an_invalid_later_batch_is_refused() -> None:
    class Late(Read):
        def read(self, index: Tensor) -> Any:
            return self.held[index] / (255 if len(index) == 1 else 1)

    with pytest.raises(InputError, match="Late gave pixels as float32"):
        Late(GOOD).__getitems__([1])


def test_images_in_0_to_1_are_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        import torch
        from simmim_pl.data.source import InMemory, Source

        class Mine(Source):
            classes = []

            def load(self, split):
                return InMemory(torch.rand(64, 3, 16, 16), None)
        """)
    )
    args = [arg for arg in TINY if "shapes.yaml" not in arg and "data.source" not in arg]
    command = [*args, *QUIET, "--data.source=mine.Mine", "--data.batch_size=16"]
    ended = Program("simmim_pl", command, tmp_path, environment())
    out, error = ended.communicate(100)
    assert ended.returncode == 2, error
    assert "Traceback" not in error
    said = error + out
    assert "InMemory gave pixels as float32 [64, 3, 16, 16], and uint8 [64, C, H, W] is required, from 0 to 255" in said


def test_has_test_is_true_only_with_a_test_split(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        torch.save(0, tmp_path / name / "x.png")
    assert Folder(str(tmp_path)).has_test()
    assert not Folder(str(tmp_path / "train/a")).has_test()
    assert CIFAR10().has_test()
