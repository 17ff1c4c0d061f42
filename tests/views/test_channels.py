"""Views of any number of channels."""

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from simmim_pl.contracts import InputError
from simmim_pl.views import ColorJitter, ContrastiveViews, CropFlip, GaussianBlur, Grayscale, Solarize, fused
from simmim_pl.views.color_jitter import Jitter, jitter


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (6, channels, 24, 24), generator=seeded(0)).to(torch.uint8)


def test_a_view_treats_every_channel_alike() -> None:
    image = images(5)
    operations = [GaussianBlur(1.0), Solarize(0.5)]
    for views in (CropFlip(20), ContrastiveViews(20, operations=operations)):
        found = views(image, seeded(1))
        for first in range(3):
            assert torch.equal(found[:, :, first : first + 3], views(image[:, first : first + 3], seeded(1)))


def test_pixels_of_16_bits_give_the_views_of_8_bits() -> None:
    image = images(3)
    views = ContrastiveViews(20, blur=0.5, solarize=0.2)
    deep = (image.int() * 257).to(torch.uint16)  # 257 · 255 = 65535
    torch.testing.assert_close(views(deep, seeded(1)), views(image, seeded(1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("operation", ["brightness", "contrast"])
def test_grey_is_jittered_as_by_torchvision(operation: str) -> None:
    image, place = images(1) / 255, ["brightness", "contrast", "saturation", "hue"].index(operation)
    factor = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
    factor[:, place] = torch.linspace(0.5, 1.5, 6)
    found = jitter(image, Jitter(factor, torch.arange(4).expand(6, 4)))
    expected = [
        getattr(transforms, f"adjust_{operation}")(each, amount.item())
        for each, amount in zip(image, factor[:, place], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)


def test_what_is_of_rgb_is_left_out_by_default_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    views = ContrastiveViews(20, blur=0.5)
    for _ in range(2):
        found = views(images(5), seeded(1))
    said = [line for line in caplog.messages if "Views" in line]
    assert said == ["Views of 5 channels are made without what is of RGB only: saturation, hue, grayscale."]
    listed = ContrastiveViews(20, operations=[ColorJitter(saturation=0, hue=0), GaussianBlur(0.5)])
    assert torch.equal(found, listed(images(5), seeded(1)))
    assert len([line for line in caplog.messages if "Views" in line]) == 1
    views(images(3), seeded(1))  # all of them again


REFUSED = {
    "hue": (
        ContrastiveViews(20, hue=0.2),
        r"^hue is .* 5 channels: set it to 0 with --data\.views\.hue 0\.",
    ),
    "several": (ContrastiveViews(20, grayscale=0.3, saturation=1.0), r"^saturation, grayscale are .* set them to 0"),
    "listed": (ContrastiveViews(20, operations=[Grayscale()]), r"grayscale is of RGB only.* set it to 0 in operations"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_user_asks_for_is_refused(name: str) -> None:
    views, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        views(images(5), seeded(1))


def test_zero_is_no_request() -> None:
    off = [ContrastiveViews(20, hue=0, saturation=0, grayscale=0), ContrastiveViews(20, jitter=0.0, grayscale=0.0)]
    for views in (*off, ContrastiveViews(20, operations=[Grayscale(0.0)])):
        assert views(images(1), seeded(1)).shape == (2, 6, 1, 20, 20)


def test_only_rgb_of_8_bits_is_for_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "runs_kernels", lambda device: True)
    assert fused.is_fusable(images(3))
    assert not fused.is_fusable(images(1))
    assert not fused.is_fusable(images(3).to(torch.uint16))
