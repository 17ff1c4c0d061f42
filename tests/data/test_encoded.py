"""Encoded images of any number of channels, from the files to the views and to an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import Folder, HeldOut, ImageDataModule
from simmim_pl.data.encoded import OnDisk
from simmim_pl.data.files import cache
from simmim_pl.views import ContrastiveViews, CropFlip
from tests.conftest import CONFIGS, EVALUATION, SHAPES, TINY

Cli = Callable[[list[Any]], Path]
COLOURLESS = {"saturation": 0, "hue": 0.1, "grayscale": 0}  # 0.1 is the default
TOP = 3911  # the largest number of the training images, of at most 4095


@pytest.fixture
def microscopy(tmp_path: Path) -> Path:
    """Grey images of 12 bits in TIFF files, of two textures."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, step in (("fine", 1), ("coarse", 4)):
            (tmp_path / "cells" / split / label).mkdir(parents=True)
            for number in range(20):
                noise = draw.integers(7, TOP, (16 // step, 16 // step)).repeat(step, 0).repeat(step, 1)
                Image.fromarray(noise.astype(np.uint16)).save(tmp_path / "cells" / split / label / f"{number}.tif")
    extremes = np.full((16, 16), 7, np.uint16)
    extremes[8:] = TOP
    Image.fromarray(extremes).save(tmp_path / "cells/train/fine/20.tif")
    return tmp_path / "cells"


def test_the_range_is_that_of_the_training_images(
    microscopy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SIMMIM_DATA_DIR", str(microscopy.parent / "data"))
    caplog.set_level("INFO")
    test = Folder(str(microscopy), size=16, channels=1).load("test")  # finds it in train
    (said,) = [line for line in caplog.messages if "numbers" in line]
    assert "numbers are from 7 to 3911, which become 0 and 1" in said
    stated = Folder(str(microscopy), size=16, channels=1, range=(7, TOP)).load("test")
    assert torch.equal(test.read(torch.arange(40)), stated.read(torch.arange(40)))
    monkeypatch.setattr(cache, "find_range", lambda *given: pytest.fail("searched again"))
    found = Folder(str(microscopy), size=16, channels=1).load("train")
    assert found.read(torch.arange(41)).int().amin() == 0
    assert found.read(torch.arange(41)).int().amax() == 65535
    assert (
        HeldOut(Folder(str(microscopy), size=16, channels=1)).load("test").read(torch.arange(2)).dtype == torch.uint16
    )


def test_unreadable_images_do_not_count_for_the_range(microscopy: Path) -> None:
    (microscopy / "train/fine/3.tif").write_text("no image")
    with pytest.warns(UserWarning, match=r"1 of 41 images cannot be read and are left out: .*3\.tif"):
        images = Folder(str(microscopy), size=16, cache=False, skip_corrupt=True, channels=1).load("train")
    assert images.read(torch.arange(40)).int().aminmax() == (0, 65535)


def test_sets_of_other_channels_and_ranges_are_others(microscopy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMMIM_DATA_DIR", str(microscopy.parent / "data"))
    options: list[dict[str, Any]] = [{}, *({"channels": 1, "range": (low, 4095)} for low in (0, 100))]
    sets = [Folder(str(microscopy), size=16, memory_gb=gb, **each).load("train") for gb in (4, 0) for each in options]
    assert len({each.digest() for each in sets}) == 6
    assert len(list((microscopy.parent / "data/.decoded").glob("*.uint8"))) == 1
    assert len(list((microscopy.parent / "data/.decoded").glob("*.uint16"))) == 2
    for kept, on_disk in zip(sets[:3], sets[3:], strict=True):
        assert isinstance(on_disk, OnDisk)
        index = torch.tensor([3, 30])
        assert torch.equal(kept.read(index), on_disk.read(index))
    again = Folder(str(microscopy), size=16, **options[1]).load("train")  # from the cache
    assert torch.equal(again.read(torch.arange(41)), sets[1].read(torch.arange(41)))


def test_all_levels_reach_the_views(tmp_path: Path) -> None:
    np.save(tmp_path / "levels.npy", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    np.save(tmp_path / "more.npy", np.zeros((64, 64), np.uint16))
    source = Folder(str(tmp_path), size=64, cache=False, channels=1, range=(0, 4095))
    batch = ImageDataModule(source).load("train").__getitems__([0])
    (view,) = CropFlip(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)(batch["image"], torch.Generator())
    assert len(view.unique()) == 4096
    torch.testing.assert_close(view[0, 0].flatten(), torch.arange(4096) / 4095, atol=1e-5, rtol=0)


def test_views_that_come_last_are_refused_first(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("L", (24, 24), 30 * number).save(tmp_path / f"{number}.png")
    source, last = Folder(str(tmp_path), size=24, cache=False, channels=1), ContrastiveViews(24, hue=0.3)
    data = ImageDataModule(source, 4, ContrastiveViews(20), final_views=last, validation=1)
    data.setup("fit")
    with pytest.raises(InputError, match="hue is of RGB only"):
        data.train_dataloader()


def test_files_of_8_bits_need_no_search_and_no_mixture(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (8, 8), 50 * number).save(tmp_path / f"{number}.png")
    eight = Folder(str(tmp_path), size=8, cache=False, channels=1)
    assert eight.load("train").read(torch.arange(3))[:, 0, 0, 0].tolist() == [0, 50, 100]
    np.save(tmp_path / "3.npy", np.arange(64, dtype=np.uint16).reshape(8, 8))
    with pytest.raises(InputError, match=r"3\.npy .* those of others have 8 bits: set the source's range"):
        eight.load("train")
    np.save(tmp_path / "-first.npy", np.arange(64, dtype=np.uint16).reshape(8, 8))
    with pytest.raises(InputError, match=r"0\.png has 8 bits and other images have more: set the source's range"):
        Folder(str(tmp_path), size=8, cache=False, channels=1).load("train")
    mixed = Folder(str(tmp_path), size=8, cache=False, channels=1, range=(0, 255)).load("train")
    assert len(mixed) == 5
    mixed = Folder(str(tmp_path), size=8, cache=False).load("train")
    assert len(mixed) == 3  # without channels, arrays are no images


@pytest.mark.drawn
def test_grey_images_of_16_bits_are_trained_on_and_evaluated(
    cli: Cli, microscopy: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    data = ["--data.source=simmim_pl.data.Folder", "--data.source.root=cells", "--data.source.size=16"]
    data += ["--data.source.channels=1", "--data.source.range=null", "--data.batch_size=8", "--data.validation=10"]
    tiny = [arg for arg in TINY if arg not in SHAPES and "batch_size" not in arg]
    colourless = [f"--data.views.{name}={value}" for name, value in COLOURLESS.items()]
    with pytest.raises(SystemExit):
        cli([*tiny, *data, *colourless])
    error = capfd.readouterr().err
    assert "The images' number of channels is 1, and the encoder's is 3: set --model.encoder.channels 1" in error
    assert "Traceback" not in error
    with pytest.raises(SystemExit):
        cli([*tiny, *data, "--model.encoder.channels=1"])
    assert "saturation, hue, grayscale are of RGB only, and the images have 1 channel" in capfd.readouterr().err
    run = cli([*tiny, *data, "--model.encoder.channels=1", *colourless])
    assert "Views of 1 channel are made without what is of RGB only: hue." in caplog.messages
    pixels = np.asarray(Image.open(run / "views.png").convert("RGB")).astype(int)
    assert np.ptp(pixels, 2).max() == 0  # grey
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert weights["encoder.net.0.0.weight"].shape[1] == 1
    assert weights["encoder.mean"].flatten().tolist() == [0.5]
    judged = [arg for arg in EVALUATION if arg not in SHAPES]
    knn = [
        "validate",
        f"--config={CONFIGS / 'evaluate/knn.yaml'}",
        f"--data={CONFIGS / 'data/microscopy.yaml'}",
        *data,
        *judged,
        "--data.validation=10",
    ]
    card = json.loads((cli([*knn, f"--model.checkpoint={run}/checkpoints/last.ckpt"]) / "result.json").read_text())
    assert [result["encoder"] for result in card["results"]] == ["pretrained", "untrained", "raw pixels"]
    assert card["results"][0]["data"] == "cells"
