"""Numbers of image files, unconverted."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.io import write_png

from simmim_pl.contracts import InputError
from simmim_pl.data.files.bands import read_bands
from simmim_pl.data.files.decode import decode_all, decode_batch, find_unreadable
from simmim_pl.data.files.encoded import ImageBytes
from simmim_pl.data.files.pixel_format import PixelFormat, quantized
from simmim_pl.runtime.pixels import as_float

LEVELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every number of 12 bits
FIVE = np.random.default_rng(0).integers(0, 4096, (5, 24, 20)).astype(np.uint16)


def write_pages(path: Path, pages: Any) -> None:
    first, *others = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=others)


WRITERS: dict[str, tuple[Any, Any]] = {
    "16-bit PNG": ("a.png", lambda path: Image.fromarray(LEVELS).save(path)),
    "16-bit TIFF": ("a.tif", lambda path: Image.fromarray(LEVELS).save(path)),
    "16-bit TIFF, big-endian": ("a.tif", lambda path: tifffile.imwrite(path, LEVELS, byteorder=">")),
    "32-bit TIFF": ("a.tif", lambda path: Image.fromarray(LEVELS.astype(np.int32)).save(path)),
    "float TIFF": ("a.tif", lambda path: Image.fromarray(LEVELS.astype(np.float32)).save(path)),
    "64-bit float TIFF": ("a.tif", lambda path: tifffile.imwrite(path, LEVELS.astype(np.float64))),
    "array": ("a.npy", lambda path: np.save(path, LEVELS)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_all_levels_of_12_bits_reach_the_encoder(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name)
    (image,) = decode_batch([str(tmp_path / name)], 64, PixelFormat(1, (0, 4095)))
    assert image.dtype == torch.uint16
    assert image.shape == (1, 64, 64)
    levels = as_float(image)
    torch.testing.assert_close(levels[0], torch.from_numpy(LEVELS.astype(np.float32) / 4095), atol=1e-5, rtol=0)
    assert len(levels.unique()) == 4096


FIVES: dict[str, tuple[str, Any]] = {
    "bands": ("a.tif", lambda path: tifffile.imwrite(path, FIVE, photometric="minisblack", planarconfig="separate")),
    "bands, pixel by pixel": (
        "a.tif",
        lambda path: tifffile.imwrite(path, FIVE.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig"),
    ),
    "bands of floats": (
        "a.tif",
        lambda path: tifffile.imwrite(path, FIVE.astype(np.float32), photometric="minisblack", planarconfig="separate"),
    ),
    "pages": ("a.tif", lambda path: write_pages(path, FIVE)),
    "channels first": ("a.npy", lambda path: np.save(path, FIVE)),
    "channels last": ("a.npy", lambda path: np.save(path, FIVE.transpose(1, 2, 0))),
}


@pytest.mark.parametrize("kind", FIVES)
def test_five_channels_are_read_in_order(kind: str, tmp_path: Path) -> None:
    name, write = FIVES[kind]
    write(tmp_path / name)
    np.testing.assert_array_equal(read_bands(str(tmp_path / name), 5), FIVE)
    content = ImageBytes("row 7", (tmp_path / name).read_bytes())
    np.testing.assert_array_equal(read_bands(content, 5), FIVE)
    with pytest.raises(InputError, match=r"row 7 cannot be read as an image \(it .*and channels is 4\)"):
        decode_batch([content], 8, PixelFormat(4, (0, 1)))


def test_colours_of_16_bits_keep_them(tmp_path: Path) -> None:
    pixels = torch.from_numpy(FIVE[:3])
    tifffile.imwrite(tmp_path / "a.tif", FIVE[:3].transpose(1, 2, 0), photometric="rgb")
    np.testing.assert_array_equal(read_bands(str(tmp_path / "a.tif"), 3), pixels)
    np.save(tmp_path / "a.npy", FIVE[:3])
    (tmp_path / "a.png").write_bytes(png_of_16_bits(FIVE[:3]))
    np.testing.assert_array_equal(read_bands(str(tmp_path / "a.png"), 3), pixels)


def png_of_16_bits(pixels: Any) -> bytes:
    """A PNG file of RGB in 16 bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    _, height, width = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.transpose(1, 2, 0))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_8_bits_stay_8_bits(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (24, 24)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    write_png(torch.from_numpy(grey).expand(3, -1, -1), str(tmp_path / "rgb.png"))
    for name in ("grey.png", "rgb.png"):  # luma of equal channels is their value
        (image,) = decode_batch([str(tmp_path / name)], 24, PixelFormat(1))
        assert image.dtype == torch.uint8
        np.testing.assert_array_equal(image[0], grey)
    files = [str(tmp_path / name) for name in ("grey.png", "rgb.png")]
    assert torch.equal(decode_all(files, 10, PixelFormat(3)), decode_all(files, 10))


def test_numbers_beyond_the_range_are_clipped_and_resized_before_they_are_rounded(tmp_path: Path) -> None:
    assert quantized(np.array([-3.0, 10, 30, 99]), 10, 30).tolist() == [0, 0, 65535, 65535]
    ramp = np.linspace(-1000, 3000, 64, dtype=np.float32)[None].repeat(64, 0)
    np.save(tmp_path / "a.npy", ramp)
    (image,) = decode_batch([str(tmp_path / "a.npy")], 16, PixelFormat(1, (-1000, 3000)))
    expected = torch.from_numpy(ramp.reshape(16, 4, 16, 4).mean((1, 3)) + 1000) / 4000  # a ramp's means
    torch.testing.assert_close(as_float(image)[0, :, 2:-2], expected[:, 2:-2], atol=1e-3, rtol=0)


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "deep.npy", LEVELS)
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    says = {
        "nan": "numbers that are not finite",
        "deep": "its numbers are uint16, those of others have 8 bits",
        "objects": "pickle",
    }
    for name, said in says.items():
        form = PixelFormat(1, None if name == "deep" else (0, 1))
        with pytest.raises(InputError, match=said):
            decode_batch([str(tmp_path / f"{name}.npy")], 8, form)
    assert find_unreadable([str(tmp_path / f"{name}.npy") for name in says], 8, PixelFormat(1, (0, 1))) == [0, 2]
    with pytest.raises(InputError, match="range has to be a lower and a higher number"):
        PixelFormat(1, (5, 5))
    with pytest.raises(InputError, match="with channels rgb these are converted to 8 bits"):
        PixelFormat("rgb", (0, 5))


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (400, 400), 77).save(tmp_path / "a.jpg")
    assert read_bands(str(tmp_path / "a.jpg"), 1, least=100).shape == (1, 100, 100)
    file = io.BytesIO((tmp_path / "a.jpg").read_bytes()).getvalue()
    assert decode_batch([ImageBytes("a", file)], 20, PixelFormat(1)).eq(77).all()
