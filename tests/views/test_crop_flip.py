"""Crop and flip equal torchvision's for the same parameters, independent between images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from simmim_pl.contracts import InputError
from simmim_pl.views import CropFlip
from simmim_pl.views.crop import sample_crop

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=seeded(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 40), st.integers(4, 40), st.one_of(st.none(), st.integers(2, 40)), st.integers(0, 2**31))
def test_equals_torchvision_for_the_same_parameters(height: int, width: int, size: int | None, seed: int) -> None:
    image, views = noise(4, height, width), CropFlip(size, scale=(0.3, 0.9), ratio=(0.5, 2.0), flip=0.5)
    (result,) = views(image, seeded(seed))
    generator = seeded(seed)
    boxes = sample_crop(4, height, width, (0.3, 0.9), (0.5, 2.0), generator, CPU)
    flipped = torch.rand(4, generator=generator) < 0.5
    for one, box, mirror, view in zip(image, boxes.tolist(), flipped, result, strict=True):
        side = size or height
        expected = tv.resized_crop(one.float() / 255, *box, [side, side], antialias=True)
        expected = tv.horizontal_flip(expected) if mirror else expected
        torch.testing.assert_close(view, expected, atol=1 / 255, rtol=0)
        torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "side"), [(None, 24), (9, 9), (50, 50)])
def test_a_view_has_the_given_size_or_the_height_of_the_image(size: int | None, side: int) -> None:
    result = CropFlip(size)(noise(5, 24, 40), seeded(0))
    assert result.shape == (1, 5, 3, side, side)
    assert result.dtype == torch.float32
    assert 0 <= result.min() < result.max() <= 1


def test_views_depend_on_the_seed_and_not_on_global_state() -> None:
    image, views = noise(8, 16, 16), CropFlip()
    torch.manual_seed(0)
    first = views(image, seeded(1))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again, other = views(image, seeded(1)), views(image, seeded(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_generator_advances_and_the_input_is_not_changed() -> None:
    image, views, generator = noise(8, 16, 16), CropFlip(), seeded(0)
    before = image.clone()
    assert not torch.equal(views(image, generator), views(image, generator))
    assert torch.equal(image, before)


def test_every_image_has_its_own_parameters() -> None:
    equal = noise(1, 32, 32).expand(64, -1, -1, -1)
    (result,) = CropFlip(scale=(0.1, 0.9))(equal, seeded(0))
    assert len(result.flatten(1).unique(dim=0)) == 64


@pytest.mark.parametrize("flip", [0, 1])
def test_without_randomness_a_view_is_the_image_or_its_mirror(flip: int) -> None:
    image = noise(20, 16, 16)
    (result,) = CropFlip(scale=(1, 1), ratio=(1, 1), flip=flip)(image, seeded(0))
    torch.testing.assert_close(result, (image.flip(-1) if flip else image) / 255)


def test_flips_have_their_probability() -> None:
    image = noise(1, 4, 4).expand(4000, -1, -1, -1)
    (result,) = CropFlip(scale=(1, 1), ratio=(1, 1), flip=0.3)(image, seeded(0))
    flipped = (result - image.flip(-1) / 255).abs().flatten(1).amax(dim=1) < 1e-5
    assert flipped.double().mean().item() == pytest.approx(0.3, abs=0.025)  # 3.5 standard deviations


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", -1),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.2)),
        ("scale", (0.5, 1.1)),
        ("ratio", (0.0, 1.0)),
        ("ratio", (2.0, 1.0)),
        ("flip", -0.1),
        ("flip", 1.1),
        ("flip", float("nan")),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name} "):
        CropFlip(**{name: value})
