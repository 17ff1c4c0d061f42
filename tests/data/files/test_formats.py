"""HEIC and DICOM files, read by optional packages."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import Folder
from simmim_pl.data.files import formats
from simmim_pl.data.files.decode import decode, find_unreadable
from simmim_pl.data.files.formats import image_extensions, supported_formats


def test_heic_is_read(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.stack([ramp[:, None].repeat(64, 1), ramp[None].repeat(64, 0), np.full((64, 64), 90, np.uint8)], -1)
    assert "HEIF" in supported_formats()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.HEIC", quality=95)
    read = np.asarray(decode(str(tmp_path / "photo.HEIC"), 64)).astype(int)
    assert np.abs(read - pixels).max() <= 12
    assert np.abs(read - pixels).mean() < 2
    assert len(Folder(str(tmp_path)).load("train")) == 1


def test_a_file_whose_package_is_not_installed_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the file's fault, so it is neither left out as corrupt nor as no image."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "pillow_heif" else find_spec(name))
    says = r"b\.heic is read by pillow-heif: pip install 'simmim_pl\[formats\]', or remove it\.$"
    for source in (Folder(str(tmp_path)), Folder(str(tmp_path), skip_corrupt=True, memory_gb=0)):
        with pytest.raises(InputError, match=says):
            source.load("train")
    with pytest.raises(InputError, match=says):
        find_unreadable([str(tmp_path / "a.png"), str(tmp_path / "b.heic")], 8)
    assert {".heic", ".heif", ".dcm", ".tif", ".tiff"} <= image_extensions()
