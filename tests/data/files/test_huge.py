"""Images of hundreds of megapixels."""

from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data.files import huge
from simmim_pl.data.files.decode import decode, decode_batch
from simmim_pl.data.files.pixel_format import PixelFormat


def test_images_beyond_pillows_limit_are_read_and_its_limit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # so that 60 × 60 pixels are a bomb
    monkeypatch.setattr(huge, "LARGE", 0.001)
    for name in ("a.png", "a.tif", "a.jpg"):
        Image.new("RGB", (60, 60), (9, 9, 9)).save(tmp_path / name)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(tmp_path / name)
        assert decode(str(tmp_path / name), 8).getpixel((4, 4)) == (9, 9, 9)
        assert decode_batch([str(tmp_path / name)], 8, PixelFormat(1)).eq(9).all()
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_beyond_the_bound_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "MAX_MEGAPIXELS", 0.02)
    for name in ("a.png", "a.jpg"):
        Image.new("L", (1000, 1000)).save(tmp_path / name)
    for form in (PixelFormat(), PixelFormat(1)):
        with pytest.raises(InputError, match=r"a\.png .* of 1 megapixels, and at most .* cut it"):
            decode_batch([str(tmp_path / "a.png")], 8, form)
        decode_batch([str(tmp_path / "a.jpg")], 8, form)  # an eighth is decoded, 125 × 125 pixels


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "LARGE", 0.001)
    inside = []

    def second() -> None:
        with huge.bounded((60, 60), "b"):
            inside.append("b")

    thread = Thread(target=second)
    with huge.bounded((60, 60), "a"), huge.bounded((10, 10), "c"):
        thread.start()
        thread.join(0.05)
        assert inside == []
    thread.join()
    assert inside == ["b"]
