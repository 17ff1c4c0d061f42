"""Masks: every mode of stored ids, the same geometry as their image, and errors for unusable ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, MaskFolder
from simmim_pl.data.sources.masks import decode_mask

CLASSES = ["background", "cat", "dog"]


def write(folder: Path, name: str, ids: np.ndarray, mode: str = "L", ending: str = "png") -> None:
    """An image whose red channel is ten times the ids, and its mask."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    red = (ids.astype(np.uint8) * 10)[..., None] * np.array([1, 0, 0], np.uint8)
    Image.fromarray(red).save(folder / f"images/{name}.png")
    stored(ids, mode).save(folder / f"masks/{name}.{ending}")


def stored(ids: np.ndarray, mode: str) -> Image.Image:
    if mode == "P":
        image = Image.fromarray(ids.astype(np.uint8)).convert("L")
        image.putpalette([value for colour in range(256) for value in (255 - colour, 7, colour)])
        return image
    kind = {"1": bool, "I": np.int32}.get(mode, np.uint16 if "16" in mode else np.uint8)
    return Image.fromarray(ids.astype(kind))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training pairs and two test pairs, in various modes."""
    ids = np.zeros((16, 16), np.uint8)
    for number, mode in enumerate(["L", "P", "I;16"]):
        ids[number] = number
        ids[10, number] = 255
        write(tmp_path / "train", f"{number}", ids, mode)
    for number in range(2):
        write(tmp_path / "test", f"{number}", ids)
    return tmp_path


def folder(root: Path, size: int = 16) -> MaskFolder:
    return MaskFolder(str(root), CLASSES, size)


def test_images_come_with_their_masks_and_without_labels(root: Path) -> None:
    source = folder(root)
    source.prepare()
    train, test = source.load("train"), source.load("test")
    assert (source.classes, source.mask_classes) == ([], CLASSES)
    assert (len(train), len(test)) == (3, 2)
    batch = train.__getitems__([2, 0])
    assert set(batch) == {"image", "mask", "index"}
    assert batch["mask"].dtype == torch.uint8
    assert batch["mask"][0, :4, 9].tolist() == [0, 1, 2, 0]
    assert batch["mask"][:, 10, :4].tolist() == [[255, 255, 255, 0], [255, 0, 0, 0]]
    known = batch["mask"] != 255
    assert torch.equal(batch["image"][:, 0][known], batch["mask"][known] * 10)


@pytest.mark.parametrize(
    ("mode", "ending", "opened"),
    [
        *[("L", "png", "L"), ("P", "png", "P"), ("P", "gif", "P"), ("1", "png", "1"), ("1", "tif", "1")],
        *[("I;16", "png", "I;16"), ("I;16", "tif", "I;16"), ("I", "tif", "I"), ("L", "bmp", "L")],
    ],
)
def test_every_mode_of_one_channel_is_read(tmp_path: Path, mode: str, ending: str, opened: str) -> None:
    ids = np.random.default_rng(0).integers(0, 2 if mode == "1" else 3, (9, 12))
    write(tmp_path, "x", ids, mode, ending)
    with Image.open(tmp_path / f"masks/x.{ending}") as image:
        assert image.mode in (opened, "L")  # Pillow's mode for a GIF of few colours varies
    read = decode_mask(str(tmp_path / f"masks/x.{ending}"), str(tmp_path / "images/x.png"), 9, 3)
    assert read.dtype == np.uint8
    assert read.tolist() == ids[:, 1:-2].tolist() or read.tolist() == ids[:, 2:-1].tolist()


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 60), width=st.integers(8, 60), size=st.integers(4, 40), seed=st.integers(0, 99))
def test_a_mask_is_resized_like_its_image(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, size: int, seed: int
) -> None:
    """The mean position of a blob is the same in image and mask, to within a pixel."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(seed)
    y, x = np.indices((height, width)).astype(float)
    short = min(height, width)
    top, left = (
        (height - short) / 2 + rng.uniform(0.3, 0.7) * short,
        (width - short) / 2 + rng.uniform(0.3, 0.7) * short,
    )
    blob = (np.hypot(y - top, x - left) < max(2, short / 5)).astype(np.uint8)
    write(root / "train", "x", blob)
    batch = MaskFolder(str(root), ["ground", "blob"], size).load("train").__getitems__([0])
    image, mask = batch["image"][0, 0].numpy().astype(float), batch["mask"][0].numpy()
    assert set(np.unique(mask)) <= {0, 1}
    if not mask.any() or not image.any():
        return
    places = [
        np.array([(weight.sum(axis) * np.arange(size)).sum() for axis in (1, 0)]) / weight.sum()
        for weight in (image, mask)
    ]
    assert np.abs(places[0] - places[1]).max() <= max(1, size / short)


def test_a_mask_of_the_right_size_is_left_untouched_and_ids_may_start_at_one(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).choice([1, 2, 3, 255], (16, 16))
    write(tmp_path, "x", ids)
    read = decode_mask(str(tmp_path / "masks/x.png"), str(tmp_path / "images/x.png"), 16, classes=3, first=1)
    assert read.tolist() == np.where(ids == 255, 255, ids - 1).tolist()


def test_the_digest_includes_masks(root: Path) -> None:
    before = folder(root).load("train").digest()
    assert folder(root).load("train").digest() == before
    Image.new("L", (16, 16), 2).save(root / "train/masks/0.png")
    assert folder(root).load("train").digest() != before


def test_the_datamodule_gives_masks(root: Path) -> None:
    images = ImageDataModule(folder(root), batch_size=2, validation=1)
    images.setup("fit")
    batches = list(images.train_dataloader())
    assert [batch["mask"].shape for batch in batches] == [(2, 16, 16)]


def rgb(root: Path) -> None:
    Image.new("RGB", (16, 16)).save(root / "train/masks/1.png")


def other_size(root: Path) -> None:
    Image.new("L", (17, 15)).save(root / "train/masks/1.png")


def other_id(root: Path) -> None:
    Image.new("L", (16, 16), 3).save(root / "train/masks/1.png")


def of_floats(root: Path) -> None:
    (root / "train/masks/1.png").unlink()
    Image.new("F", (16, 16), 1.0).save(root / "train/masks/1.tif")


def again(root: Path) -> None:
    Image.new("L", (16, 16)).save(root / "train/masks/1.bmp")


UNPAIRED = {
    r"images/1\.png has no mask: put one named 1 into .*train/masks": lambda root: (
        root / "train/masks/1.png"
    ).unlink(),
    r"masks/2\.png has no image: put one named 2 into .*train/images": lambda root: (
        root / "train/images/2.png"
    ).unlink(),
    r"masks/1\.(bmp|png) and .*masks/1\.(bmp|png) have the same name": again,
    r"train has to hold a folder named images and one named masks": lambda root: (root / "train/masks").rename(
        root / "other"
    ),
    r"test/images holds no images": lambda root: [path.unlink() for path in (root / "test").rglob("*.png")],
}
UNREADABLE = {
    r"masks/1\.png is of mode RGB, and a mask has one channel": rgb,
    r"masks/1\.png has 17×15 pixels, and its image .*images/1\.png has 16×16": other_size,
    r"masks/1\.png holds the id 3, and the 3 classes have 0 to 2": other_id,
    r"masks/1\.tif is of mode F, and a mask has one channel of whole ids": of_floats,
    r"masks/1\.png cannot be read as the mask of .*images/1\.png": lambda root: (
        root / "train/masks/1.png"
    ).write_bytes(b"no"),
    r"images/1\.png cannot be read as an image": lambda root: (root / "train/images/1.png").write_bytes(b"no"),
}


@pytest.mark.parametrize("says", UNPAIRED)
def test_unpaired_files_are_refused_before_decoding(root: Path, says: str) -> None:
    UNPAIRED[says](root)
    with pytest.raises(InputError, match=says):
        folder(root).prepare()


@pytest.mark.parametrize("says", UNREADABLE)
def test_an_unusable_mask_is_named(root: Path, says: str) -> None:
    UNREADABLE[says](root)
    folder(root).prepare()
    with pytest.raises(InputError, match=says):
        folder(root).load("train")


def test_a_missing_split_is_refused(root: Path) -> None:
    (root / "test").rename(root / "later")
    folder(root).prepare()
    with pytest.raises(InputError, match="test has to hold a folder named images"):
        folder(root).load("test")


@pytest.mark.parametrize(
    ("classes", "size", "says"),
    [
        (CLASSES, 0, "size has to be 1 or more, and is 0"),
        (["one"], 8, "has 1 classes: give 2 to 255 different names"),
        (["x"] * 256, 8, "has 256"),
    ],
)
def test_invalid_arguments_are_refused(root: Path, classes: list[str], size: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        MaskFolder(str(root), classes, size)
