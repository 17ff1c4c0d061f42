"""Crops equal torchvision's for the same box, and boxes have torchvision's distribution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from simmim_pl.views.crop import central_crop, crop_resize, resampling, sample_crop

CPU = torch.device("cpu")


@st.composite
def crops(draw):
    """Image height and width, three boxes within it, and larger and smaller output sizes."""
    height, width = draw(st.integers(2, 48)), draw(st.integers(2, 48))
    boxes = []
    for _ in range(3):
        h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
        boxes.append((draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w))
    return height, width, boxes, draw(st.integers(2, 40))  # torch 2.14 resizes k × 1 to S × 1 wrongly: S ≥ 2


@settings(deadline=None)
@given(crops(), st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 2**31))
def test_equals_torchvision(crop, flip, seed):
    height, width, boxes, size = crop
    image = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(seed))
    ours = crop_resize(image, torch.tensor(boxes), torch.tensor(flip), size)
    for one, box, mirror, result in zip(image, boxes, flip, ours, strict=True):
        expected = tv.resized_crop(one, *box, [size, size], antialias=True)
        expected = tv.horizontal_flip(expected) if mirror else expected
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_whole_image_at_its_own_size_is_itself():
    image = torch.rand(2, 3, 16, 16)
    boxes = torch.tensor([[0, 0, 16, 16]] * 2)
    result = crop_resize(image, boxes, torch.tensor([False, True]), 16)
    torch.testing.assert_close(result[0], image[0])
    torch.testing.assert_close(result[1], image[1].flip(-1))


def test_one_pixel_fills_the_view():
    image = torch.rand(1, 3, 9, 7)
    result = crop_resize(image, torch.tensor([[4, 6, 1, 1]]), torch.tensor([False]), 5)
    torch.testing.assert_close(result, image[:, :, 4:5, 6:7].expand(-1, -1, 5, 5))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_weights_average_only_the_box(length, size, mirror):
    weight = resampling(torch.tensor([3]), torch.tensor([length]), torch.tensor([mirror]), size, 50)
    torch.testing.assert_close(weight.sum(-1), torch.ones(1, size))
    assert weight.min() >= 0
    assert weight[..., :3].sum() == 0 == weight[..., 3 + length :].sum()


SETTINGS = [
    pytest.param(32, 32, (0.08, 1.0), (3 / 4, 4 / 3), id="default"),
    pytest.param(24, 80, (0.2, 1.0), (3 / 4, 4 / 3), id="many retries"),
    pytest.param(64, 48, (0.2, 0.6), (1 / 2, 1.0), id="tall"),
]


@pytest.mark.parametrize(("height", "width", "scale", "ratio"), SETTINGS)
def test_boxes_follow_torchvision(height, width, scale, ratio):
    count = 3000
    ours = sample_crop(count, height, width, scale, ratio, torch.Generator().manual_seed(0), CPU)
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)])
    for name, of in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "area": lambda box: box[:, 2] * box[:, 3],
        "log ratio": lambda box: (box[:, 3] / box[:, 2]).log(),
    }.items():
        assert ks_2samp(of(ours).numpy(), of(theirs).numpy()).pvalue > 0.01, name


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_boxes_are_within_the_image(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    top, left, h, w = sample_crop(64, height, width, (0.08, 1.0), (0.75, 4 / 3), generator, CPU).unbind(1)
    assert (torch.stack((top, left, h - 1, w - 1)) >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (31, 97)])
def test_central_crop_when_nothing_fits(height, width):
    # The whole area at a very different aspect ratio: no attempt can fit.
    box = sample_crop(5, height, width, (1.0, 1.0), (0.9, 1.1), torch.Generator().manual_seed(0), CPU)
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), [1.0, 1.0], [0.9, 1.1])
    assert box.tolist() == [list(expected)] * 5 == [list(central_crop(height, width, (0.9, 1.1)))] * 5


def test_area_is_uniform_when_every_box_fits():
    box = sample_crop(4000, 1000, 1000, (0.1, 0.5), (1.0, 1.0), torch.Generator().manual_seed(0), CPU)
    area = (box[:, 2] * box[:, 3]).double() / 1e6
    assert area.mean() == pytest.approx(0.3, abs=0.008)
    assert area.std() == pytest.approx(0.4 / math.sqrt(12), abs=0.005)
