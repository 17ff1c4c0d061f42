"""Every mode of stored images, every kind of damage, and resizing."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode, decode_all, decode_batch
from simmim_pl.data.files.formats import FORMATS, image_extensions, supported_formats
from simmim_pl.data.sources.masks import decode_mask

RGB = (200, 100, 40)


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


# The written image, its extension, the mode in which Pillow opens it, and the expected RGB:
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

OLDER_MODES = {"I;16": "I"}  # which earlier versions of Pillow give such a file


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    image, ending, mode, expected = MODES[name]
    path = tmp_path / f"image.{ending}"
    opened = save(image, path)
    if (opened, name) == ("RGB", "YCbCr"):
        pytest.skip("this version of Pillow writes such a file without pixels")
    assert opened in (mode, OLDER_MODES.get(mode))
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
def test_an_oblong_image_is_centre_cropped(tmp_path, shape):
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
    x = np.indices((512, 512)).sum(0) % 2 * 255  # the mean of a chequerboard is grey
    Image.fromarray(x.astype(np.uint8)).save(tmp_path / f"board.{ending}")
    read = np.asarray(decode(str(tmp_path / f"board.{ending}"), 32)).astype(int)
    assert np.abs(read - 127).max() <= 3


def test_a_large_jpeg_equals_an_independent_area_mean(tmp_path):
    y, x = np.mgrid[:512, :512] / 512
    pixels = np.stack([255 * x, 255 * y, 127 + 100 * np.sin(9 * x * y)], -1).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "smooth.jpg", quality=95)
    read = np.asarray(decode(str(tmp_path / "smooth.jpg"), 32)).astype(float)
    mean = pixels.reshape(32, 16, 32, 16, 3).mean((1, 3))
    assert np.abs(read - mean)[1:-1, 1:-1].max() < 4


def test_many_images_stay_in_order_over_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("simmim_pl.data.files.decode.CHUNK", 3)
    files = [str(tmp_path / f"{i:02}.png") for i in range(20)]
    for i, file in enumerate(files):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(file)
    images = decode_all(files, 4)
    assert images.shape == (20, 3, 4, 4)
    assert images[:, 0, 0, 0].tolist() == list(range(20))
    assert torch.equal(decode_batch(files[5:9], 4), images[5:9])


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
    DAMAGE[damage](path)
    with pytest.raises(InputError, match=rf"bad\.{ending} cannot be read as an image"):
        decode(str(path), 32)


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan"), float("inf")])
def test_greyscale_of_unknown_range_is_named(tmp_path, value):
    Image.new("F", (32, 32), value).save(tmp_path / "far.tif")
    with pytest.raises(InputError, match=r"far\.tif .* of unknown range"):
        decode(str(tmp_path / "far.tif"), 32)


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of that name, first in PATH, and the file that it creates when it is started."""
    (tmp_path / "bin").mkdir()
    program, mark = tmp_path / "bin/gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # searched once per process
    return mark


def started(ghostscript, path):
    """Whether Pillow starts it by default."""
    with Image.open(path) as image, suppress(OSError):
        image.load()
    return ghostscript.exists()


@pytest.mark.parametrize("ending", ["eps", "png", "jpg"])
def test_no_external_program_is_started_whatever_the_file_name(tmp_path, ghostscript, ending):
    path, good = tmp_path / f"image.{ending}", tmp_path / "good.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    Image.new("L", (8, 8)).save(good)
    with pytest.raises(
        InputError, match=rf"image\.{ending} cannot be read as an image \(its format is not one of JPEG,"
    ):
        decode(str(path), 8)
    for mask, image in ((path, good), (good, path)):
        with pytest.raises(InputError, match="cannot be read as the mask"):
            decode_mask(str(mask), str(image), 8, 2)
    assert not ghostscript.exists()
    assert started(ghostscript, path)  # so the file would have been created


def test_files_are_found_by_the_extensions_of_supported_formats():
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".bmp"} <= image_extensions()
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".fpx", ".mpg", ".hdf", ".grib"} & image_extensions()
    assert set(supported_formats()) <= set(FORMATS)
    assert supported_formats()[-1] == "TGA"


@pytest.mark.parametrize("name", [name for name in supported_formats() if name in Image.SAVE])
def test_formats_are_recognised_whatever_the_extension(tmp_path, name):
    path = tmp_path / "image.png"
    Image.new("RGB", (32, 32), RGB).save(path, name)
    read = np.asarray(decode(str(path), 32)).astype(int)
    assert np.abs(read - RGB).max() <= 6
