"""DICOM files of every kind of pixels, against the standard's formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from simmim_pl.contracts import InputError  # noqa: E402
from simmim_pl.data.files.bands import read_bands  # noqa: E402
from simmim_pl.data.files.decode import decode  # noqa: E402
from simmim_pl.data.files.encoded import ImageBytes  # noqa: E402

RAMP = np.linspace(-1000, 3000, 32 * 32).round().astype(np.int16).reshape(32, 32)


def write(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """A real file; ``tags`` are its further attributes."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    file.Rows, file.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
    file.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    file.PhotometricInterpretation = "RGB" if file.SamplesPerPixel == 3 else "MONOCHROME2"
    file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.shape[-1] != 3 and pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path) -> np.ndarray:
    read = np.asarray(decode(str(path), 32)).astype(float)
    assert (read == read[..., :1]).all()
    return read[..., 0]


def test_grayscale_is_stretched_to_its_range(tmp_path: Path) -> None:
    expected = np.rint((RAMP + 1000.0) / 4000 * 255)
    assert np.abs(grey(write(tmp_path / "a.dcm", RAMP)) - expected).max() <= 1
    inverted = grey(write(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(inverted - (255 - expected)).max() <= 1
    assert np.ptp(grey(write(tmp_path / "c.dcm", np.full((32, 32), 7, np.uint8)))) == 0


def test_rescaling_and_the_first_window_are_applied(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": [400, 9], "WindowWidth": [1000, 9]}
    read = grey(write(tmp_path / "a.dcm", RAMP, **tags))
    x = 2.0 * RAMP - 100
    expected = 255 * np.clip((x - (400 - 0.5)) / (1000 - 1) + 0.5, 0, 1)  # DICOM PS3.3, C.11.2.1.2.1
    assert np.abs(read - expected).max() <= 1


def test_colours_and_the_first_frame_are_read_from_files_and_from_bytes(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = write(tmp_path / "colours.dcm", colours)
    np.testing.assert_array_equal(np.asarray(decode(str(path), 32)), colours)
    np.testing.assert_array_equal(np.asarray(decode(ImageBytes("row 3", path.read_bytes()), 32)), colours)
    frames = np.stack([RAMP, np.zeros_like(RAMP)])
    np.testing.assert_array_equal(grey(write(tmp_path / "two.dcm", frames)), grey(write(tmp_path / "one.dcm", RAMP)))


def test_one_channel_has_the_files_own_units(tmp_path: Path) -> None:
    window = {"WindowCenter": 40, "WindowWidth": 400}  # for a viewer only
    path = write(tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1024, **window)
    for source in (str(path), ImageBytes("a", path.read_bytes())):
        (found,) = read_bands(source, 1)
        np.testing.assert_array_equal(found, RAMP * 2.0 - 1024)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.dcm", RAMP)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"bad\.dcm cannot be read as an image \(.*\): replace it or remove it"):
        decode(str(path), 32)
