"""Pixels as floats, as pictures, and by index."""

import pytest
import torch
from torch.utils.data import Subset
from torchvision.transforms.functional import convert_image_dtype

from simmim_pl.data import InMemory
from simmim_pl.runtime.pixels import as_bytes, as_float, as_rgb, image_at, rows_at

EVERY = torch.arange(65536).view(1, 1, 256, 256)


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_pixels_become_floats_in_0_to_1(dtype: torch.dtype, white: int) -> None:
    pixels = EVERY.clamp(max=white).to(dtype)
    unit = as_float(pixels)
    assert torch.equal(unit, pixels.to(torch.float64).div(white).float())  # correctly rounded
    torch.testing.assert_close(unit, convert_image_dtype(pixels))
    assert torch.equal(unit, pixels / white)
    assert as_float(unit) is unit
    assert torch.equal(as_bytes(unit), (pixels / white * 255).round().to(torch.uint8))
    assert torch.equal(as_float(pixels)[0, 0, 0, :2] * white, torch.tensor([0.0, 1.0]))


def test_images_of_any_number_of_channels_have_a_picture() -> None:
    image = torch.rand(2, 5, 4, 4)
    assert torch.equal(as_rgb(image), image[:, :3])
    assert torch.equal(as_rgb(image[:, :1]), image[:, :1].repeat(1, 3, 1, 1))
    assert torch.equal(as_rgb(image[:, :2])[:, :2], image[:, :2])
    assert as_rgb(image[:, :2])[:, 2].eq(0).all()
    assert as_rgb(image[None, :, :3]).shape == (1, 2, 3, 4, 4)


def test_16_bits_are_indexed_as_others() -> None:
    pixels, index = EVERY.reshape(256, 1, 16, 16), torch.tensor([255, 3, 3])
    assert torch.equal(rows_at(pixels.to(torch.uint16), index).long(), pixels[index])


def test_images_of_any_dataset_are_read() -> None:
    pixels = torch.arange(2 * 60, dtype=torch.uint8).view(2, 3, 4, 5)
    plain = [{"image": each} for each in pixels]
    for images in (plain, Subset(plain, [0, 1]), InMemory(pixels, None), Subset(InMemory(pixels, None), [0, 1])):
        assert torch.equal(image_at(images, 1), pixels[1:])
