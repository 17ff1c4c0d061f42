"""Kernels draw the same parameters as torch's operations from the same random numbers."""

import pytest
import torch

from simmim_pl.views import ColorJitter, GaussianBlur, Grayscale, Operation, Solarize, fused
from simmim_pl.views.plan import Crop, draw_plan
from tests.kernels import DEVICE, needs_kernels

IMAGES = 70 if DEVICE.type == "cpu" else 10_000
OPERATIONS: list[Operation] = [
    ColorJitter(0.7, 0.4, 1.3, 0.2, 0.1),
    Grayscale(0.2),
    GaussianBlur(0.5, (0.2, 1.4)),
    Solarize(0.3),
]


def drawn(numbers: torch.Tensor, image: torch.Tensor, crop: Crop, views: int) -> torch.Tensor:
    """Parameter rows of all views, on the CPU."""
    from simmim_pl.gpu.parameters import draw_parameters

    begins, count = fused.numbering([OPERATIONS] * views)
    assert len(numbers) == count * len(image)
    asked = tuple(fused.settings(image, crop, OPERATIONS) + begin for begin in begins)
    return draw_parameters(numbers.to(DEVICE), asked, len(image), 0, 1).cpu()


@needs_kernels
@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (24, 80, (0.2, 1.0), (3 / 4, 4 / 3)),  # many tries
        (10, 100, (1.0, 1.0), (0.9, 1.1)),  # none fits
        (1, 1, (0.5, 1.0), (1.0, 1.0)),
    ],
)
def test_rows_equal_torchs(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    image, crop = torch.empty(IMAGES, 3, height, width), Crop(8, scale, ratio, 0.5)
    found = drawn(torch.rand(2 * 54 * IMAGES, generator=torch.Generator().manual_seed(0)), image, crop, views=2)
    generator = torch.Generator().manual_seed(0)
    for row in found:
        plan = draw_plan(image, crop, OPERATIONS, generator)
        expected = fused.rows(plan, OPERATIONS, plan.drawn)
        box = (row[:, :4] == expected[:, :4]).all(dim=1)
        assert box.double().mean() > 0.998  # a size within a millionth of a half pixel may be rounded either way
        torch.testing.assert_close(row[:, 4:], expected[:, 4:], atol=1e-6, rtol=0)
    assert not torch.equal(found[0], found[1])


@needs_kernels
def test_equal_random_numbers_still_give_a_permutation() -> None:
    row = drawn(torch.full((3 * 54,), 0.5), torch.empty(3, 3, 8, 8), Crop(8, (0.5, 1.0), (1.0, 1.0), 0.5), views=1)
    assert row[0, :, 9:13].tolist() == [[0, 1, 2, 3]] * 3
