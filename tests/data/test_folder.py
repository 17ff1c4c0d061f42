"""Image folders: every layout, every mode, and what is said about each that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from simmim_pl.data.folder import Folder, decode
from simmim_pl.records import InputError

RGB = (200, 100, 40)


def write(path, colour=RGB, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def labelled(tmp_path):
    """Three train images of two classes and two test images; the red channel tells them apart."""
    write(tmp_path / "train/cat/b.png", (2, 0, 0))
    write(tmp_path / "train/cat/deep/down/c.PNG", (3, 0, 0))
    write(tmp_path / "train/cat/a.bmp", (1, 0, 0))
    write(tmp_path / "train/ant/z.png", (4, 0, 0))
    write(tmp_path / "test/cat/a.png", (5, 0, 0))
    write(tmp_path / "test/ant/a.png", (6, 0, 0))
    write(tmp_path / "train/cat/.hidden.png")
    write(tmp_path / "train/cat/.cache/a.png")
    write(tmp_path / "train/.thumbs/a.png")
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    return tmp_path


def reds(images):
    return images.read(torch.arange(len(images)))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_labelled_layout_in_fixed_order(labelled, memory_gb):
    folder = Folder(str(labelled), memory_gb=memory_gb)
    folder.prepare()
    train, test = folder.load("train"), folder.load("test")
    assert folder.classes == ["ant", "cat"]
    assert (reds(train), train.labels.tolist()) == ([4, 1, 2, 3], [0, 1, 1, 1])
    assert (reds(test), test.labels.tolist()) == ([6, 5], [0, 1])
    assert train.workers is test.workers is (memory_gb == 0)


@pytest.mark.parametrize("place", [".", "train"])
@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_unlabelled_layouts(tmp_path, place, memory_gb):
    for i in (3, 1, 2):
        write(tmp_path / place / f"{i}.png", (i, 0, 0))
    folder = Folder(str(tmp_path), memory_gb=memory_gb)
    folder.prepare()
    train = folder.load("train")
    assert (reds(train), train.labels, folder.classes) == ([1, 2, 3], None, [])
    assert set(train.__getitems__([0, 2])) == {"image", "index"}
    with pytest.raises(InputError, match="without labels, so it has no test split"):
        folder.load("test")


def test_memory_and_disk_give_identical_batches(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / f"train/class{i % 2}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 90 - 2 * i, 3), dtype=np.uint8)).save(path)
    memory, disk = (Folder(str(tmp_path), size=24, memory_gb=gb).load("train") for gb in (4.0, 0.0))
    assert (memory.workers, disk.workers) == (False, True)
    assert len(memory) == len(disk) == 20
    for indices in ([0, 1, 2], [19, 0, 7, 7]):
        one, other = memory.__getitems__(indices), disk.__getitems__(indices)
        assert one.keys() == other.keys() == {"image", "index", "label"}
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert one["image"].shape == (len(indices), 3, 24, 24)


def test_the_limit_of_memory_is_counted_in_bytes(labelled):
    exactly = 4 * 3 * 32 * 32 / 1e9
    assert not Folder(str(labelled), memory_gb=exactly).load("train").workers
    assert Folder(str(labelled), memory_gb=exactly * 0.999).load("train").workers


def test_more_images_than_a_thread_takes_at_once_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("simmim_pl.data.folder.CHUNK", 3)
    for i in range(20):
        write(tmp_path / f"{i:02}.png", (i, 0, 0), size=(4, 4))
    assert reds(Folder(str(tmp_path), size=4).load("train")) == list(range(20))


def test_workers_decode_the_same(labelled):
    disk = Folder(str(labelled), memory_gb=0).load("train")
    loader = DataLoader(disk, batch_size=3, num_workers=1, collate_fn=lambda batch: batch)
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 1], [1]]


def save(image, path):
    image.save(path)
    with Image.open(path) as read:
        return read.mode


def grey16(value):
    return Image.fromarray(np.full((32, 32), value, dtype=np.uint16))


def palette(**info):
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, *RGB])
    image.info |= info
    return image


def with_alpha(mode, colour):
    return Image.new(mode, (32, 32), colour)


# What is written, under which ending, the mode in which Pillow opens it, and the RGB that is expected:
# over white, a colour c of opacity a is 255 + (c - 255) a / 255.
MODES = {
    "1": (Image.new("1", (32, 32), 1), "png", "1", (255, 255, 255)),
    "L": (Image.new("L", (32, 32), 77), "png", "L", (77, 77, 77)),
    "LA": (with_alpha("LA", (100, 51)), "png", "LA", (224, 224, 224)),
    "P": (palette(), "png", "P", RGB),
    "P, transparent": (palette(transparency=1), "png", "P", (255, 255, 255)),
    "P, another transparent": (palette(transparency=0), "png", "P", RGB),
    "RGB": (Image.new("RGB", (32, 32), RGB), "png", "RGB", RGB),
    "RGBA": (with_alpha("RGBA", (*RGB, 51)), "png", "RGBA", (244, 224, 212)),
    "RGBA, clear": (with_alpha("RGBA", (*RGB, 0)), "png", "RGBA", (255, 255, 255)),
    "RGBA, opaque": (with_alpha("RGBA", (*RGB, 255)), "png", "RGBA", RGB),
    "CMYK": (Image.new("CMYK", (32, 32), (55, 155, 215, 0)), "tif", "CMYK", RGB),
    "YCbCr": (Image.new("YCbCr", (32, 32), (124, 81, 182)), "tif", "YCbCr", (200, 100, 40)),
    "LAB": (Image.new("LAB", (32, 32), (255, 128, 128)), "tif", "LAB", (255, 255, 255)),
    "I;16": (grey16(25700), "png", "I;16", (100, 100, 100)),
    "I;16, white": (grey16(65535), "tif", "I;16", (255, 255, 255)),
    "I": (Image.new("I", (32, 32), 25700), "tif", "I", (100, 100, 100)),
    "F, 0 to 1": (Image.new("F", (32, 32), 0.4), "tif", "F", (102, 102, 102)),
    "F, 0 to 255": (Image.new("F", (32, 32), 102.0), "tif", "F", (102, 102, 102)),
    "F, 0 to 65535": (Image.new("F", (32, 32), 25700.0), "tif", "F", (100, 100, 100)),
    "JPEG": (Image.new("L", (32, 32), 77), "jpg", "L", (77, 77, 77)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    image, ending, mode, expected = MODES[name]
    path = tmp_path / f"image.{ending}"
    assert save(image, path) == mode
    read = np.asarray(decode(str(path), 32)).astype(int)
    assert read.shape == (32, 32, 3)
    assert np.abs(read - expected).max() <= (2 if name == "YCbCr" else 1)


def test_16_bit_greyscale_keeps_its_gradient(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    read = np.asarray(decode(str(tmp_path / "ramp.png"), 32))
    np.testing.assert_array_equal(read, np.rint(ramp / 257).astype(np.uint8)[..., None].repeat(3, 2))


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(str(tmp_path / "two.gif"), 32)).min() == 255


def test_images_of_the_right_size_are_left_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    np.testing.assert_array_equal(np.asarray(decode(str(tmp_path / "noise.png"), 32)), pixels)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (64, 192), (192, 64), (8, 24), (1, 300)])
def test_the_centre_of_an_oblong_image_is_taken(tmp_path, shape):
    height, width = shape
    pixels = np.zeros((height, width, 3), dtype=np.uint8)  # black ends, a white square between them
    short, long = min(shape), max(shape)
    middle = slice((long - short) // 2, (long + short) // 2 + (long - short) % 2)
    pixels[(middle, slice(None)) if height > width else (slice(None), middle)] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    read = np.asarray(decode(str(tmp_path / "square.png"), 16))
    assert read.shape == (16, 16, 3)
    assert read[3:-3, 3:-3].min() >= 250 or short == 1
    if short > 1:
        assert read.mean() > 240


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_shrinking_is_antialiased(tmp_path, ending):
    x = np.indices((512, 512)).sum(0) % 2 * 255  # a chequerboard has no mean but grey
    Image.fromarray(x.astype(np.uint8)).save(tmp_path / f"board.{ending}")
    read = np.asarray(decode(str(tmp_path / f"board.{ending}"), 32)).astype(int)
    assert np.abs(read - 127).max() <= 3


def test_a_large_jpeg_agrees_with_an_independent_area_mean(tmp_path):
    y, x = np.mgrid[:512, :512] / 512
    pixels = np.stack([255 * x, 255 * y, 127 + 100 * np.sin(9 * x * y)], -1).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "smooth.jpg", quality=95)
    read = np.asarray(decode(str(tmp_path / "smooth.jpg"), 32)).astype(float)
    mean = pixels.reshape(32, 16, 32, 16, 3).mean((1, 3))
    assert np.abs(read - mean)[1:-1, 1:-1].max() < 4


DAMAGE = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "corrupt": lambda path: path.write_bytes(path.read_bytes()[:60] + b"?" * 60),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_image_is_named(tmp_path, damage, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / f"bad.{ending}"
    Image.fromarray(pixels).save(path)
    disk = Folder(str(tmp_path), memory_gb=0).load("train")
    DAMAGE[damage](path)
    with pytest.raises(InputError, match=rf"bad\.{ending} cannot be read as an image"):
        disk.read(torch.tensor([0]))
    if damage != "gone":
        with pytest.raises(InputError, match=rf"bad\.{ending} cannot be read as an image"):
            Folder(str(tmp_path)).load("train")


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan"), float("inf")])
def test_greyscale_of_unknown_range_is_named(tmp_path, value):
    Image.new("F", (32, 32), value).save(tmp_path / "far.tif")
    with pytest.raises(InputError, match=r"far\.tif .* of unknown range"):
        decode(str(tmp_path / "far.tif"), 32)


def refused(root, split, match):
    with pytest.raises(InputError, match=match):
        Folder(str(root)).load(split)


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", "train", "nowhere is not a folder")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        Folder(str(tmp_path / "nowhere")).prepare()


@pytest.mark.parametrize("layout", [".", "train", "train/cat"])
def test_empty_folder(tmp_path, layout):
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match=r"holds no images: .*train/CLASS/"):
        Folder(str(tmp_path)).prepare()


def test_single_class(tmp_path):
    write(tmp_path / "train/cat/a.png")
    with pytest.raises(InputError, match=r"a single class, cat.*at least two classes"):
        Folder(str(tmp_path)).prepare()


def test_class_without_images(labelled):
    (labelled / "train/bee").mkdir()
    with pytest.raises(InputError, match="train/bee is a class without images"):
        Folder(str(labelled)).prepare()


def test_classes_at_the_top(tmp_path):
    for name in ("ant", "cat"):
        write(tmp_path / name / "a.png")
    refused(tmp_path, "train", "holds folders of images, but no folder named train")


def test_images_beside_class_folders(labelled):
    write(labelled / "train/stray.png")
    refused(labelled, "train", "holds images beside a folder of images, ant")


def test_test_class_that_is_not_a_train_class(labelled):
    write(labelled / "test/dog/a.png")
    with pytest.raises(InputError, match="test/dog is no class of"):
        Folder(str(labelled)).prepare()


def test_test_images_without_a_class(labelled):
    write(labelled / "test/stray.png")
    refused(labelled, "test", r"stray\.png lies beside the class folders")


def test_no_test_split(labelled):
    (labelled / "test").rename(labelled / "later")
    Folder(str(labelled)).prepare()
    refused(labelled, "test", "has no test split, a folder named test")


def test_empty_test_split(labelled):
    for name in ("cat", "ant"):
        (labelled / "test" / name / "a.png").unlink()
    refused(labelled, "test", "test holds no images")


def test_size_of_nothing(tmp_path):
    with pytest.raises(InputError, match="size is 0"):
        Folder(str(tmp_path), size=0)
