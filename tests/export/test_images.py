"""Real images to compare on: the run's own if they are here, without a download, or those of a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import CIFAR10, HeldOut, Shapes
from simmim_pl.data.source import InMemory
from simmim_pl.export.images import real_images

NOWHERE = Path("x.ckpt")


def config(name: str, views: int = 24, **arguments: Any) -> dict[str, Any]:
    """Of a run on this source."""
    source = {"class_path": f"simmim_pl.data.{name}", "init_args": arguments}
    return {"data": {"init_args": {"source": source, "views": {"init_args": {"size": views}}}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images of one colour each, in two folders."""
    for number in range(20):
        path = tmp_path / f"pictures/{number % 2}/{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (10 * number, 0, 255)).save(path)
    return tmp_path / "pictures"


def test_procedural_images_are_drawn_as_in_the_run() -> None:
    images, name = real_images(config("Shapes", train=5000, test=5000, size=16, copies=1, seed=3), NOWHERE, None, None)
    wanted = Shapes(train=10, test=10, size=16, copies=1, seed=3).load("test").images[:8]
    assert name == "Shapes"
    assert torch.equal(images, wanted / 255)
    assert real_images(config("Shapes", size=16, copies=1), NOWHERE, None, 40)[0].shape == (8, 3, 40, 40)


def test_the_images_behind_a_part_held_out_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8)

    def load(self: CIFAR10, split: str) -> InMemory:
        assert split == "test"
        return InMemory(pixels, None)

    monkeypatch.setattr(CIFAR10, "load", load)
    monkeypatch.setattr(CIFAR10, "prepare", lambda self: pytest.fail("downloads"))
    held = config("HeldOut", source={"class_path": "simmim_pl.data.CIFAR10", "init_args": {}})
    images, name = real_images(held, NOWHERE, None, None)
    assert (name, HeldOut.__name__) == ("CIFAR10", "HeldOut")
    assert torch.equal(images, pixels[:8] / 255)


def test_images_of_a_folder_are_taken_from_all_over_it(folder: Path) -> None:
    images, name = real_images(config("Shapes", size=16), NOWHERE, folder, None)
    assert (images.shape, name) == ((8, 3, 16, 16), "pictures/")
    red = (images[:, 0, 0, 0] * 25.5).round().int().tolist()
    assert red == sorted(red, key=lambda number: (number % 2, number))
    assert {number % 2 for number in red} == {0, 1}
    assert real_images(config("CIFAR10"), NOWHERE, folder, None)[0].shape == (8, 3, 24, 24), "the views' size"
    assert real_images(config("Shapes", size=16), NOWHERE, folder, 20)[0].shape == (8, 3, 20, 20)
    own, name = real_images(config("Folder", root=str(folder), size=16), NOWHERE, None, None)
    assert name == "Folder"
    assert torch.equal(own, images)


def test_without_images_one_sentence_asks_for_them(folder: Path, tmp_path: Path) -> None:
    asks = (
        r"The run's own images \({}\) cannot be loaded to verify the export \({}.*\): give a folder of images with --im"
    )
    for name, arguments, reason in (
        ("CIFAR10", {"root": str(tmp_path)}, r".*cifar-10-batches-py is missing"),
        ("Folder", {"root": str(tmp_path / "gone")}, ".*has 0 images"),
        ("ShapesClips", {}, "they are of no data set of images of this package"),
        ("Nothing", {}, "they are of no data set"),
    ):
        with pytest.raises(InputError, match=asks.format(name, reason)):
            real_images(config(name, **arguments), NOWHERE, None, None)
    with pytest.raises(InputError, match=r"give a folder of images with --images FOLDER"):
        real_images({}, NOWHERE, None, None)
    with pytest.raises(InputError, match=r"does not say how large its images are: add --size PIXELS"):
        real_images({}, NOWHERE, folder, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has 0 images, and verifying an export needs at least two"):
        real_images(config("Shapes"), NOWHERE, tmp_path / "empty", 16)


def test_a_list_without_a_test_split_and_with_few_images_serves(folder: Path) -> None:
    (folder / "list.csv").write_text("path\n0/00.png\n1/01.png\n0/02.png\n")
    images, name = real_images(config("FileList", file=str(folder / "list.csv"), size=16), NOWHERE, None, None)
    assert (images.shape, name) == ((3, 3, 16, 16), "FileList")
