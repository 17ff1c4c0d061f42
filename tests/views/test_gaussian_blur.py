"""Gaussian blur equals torchvision's for the same width, with its limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from torchvision.transforms.v2 import functional as tv

from simmim_pl.contracts import InputError
from simmim_pl.views import ContrastiveViews
from simmim_pl.views.gaussian_blur import gaussian, gaussian_blur, kernel_size


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.125, 3, width=32), min_size=1, max_size=5),
    st.sampled_from([1, 3, 5, 9]),
    st.integers(5, 24),
    st.integers(5, 24),
    st.integers(0, 2**31),
)
def test_blur_equals_torchvision(sigmas, kernel, height, width, seed):
    image = torch.rand(len(sigmas), 3, height, width, generator=seeded(seed))
    ours = gaussian_blur(image, torch.tensor(sigmas), kernel)
    for blurred, one, sigma in zip(ours, image, sigmas, strict=True):
        torch.testing.assert_close(blurred, tv.gaussian_blur(one, [kernel, kernel], [sigma, sigma]), atol=1e-6, rtol=0)


def test_a_wide_kernel_equals_scipys_gaussian():
    line = torch.rand(40, generator=seeded(0))
    theirs = gaussian_filter1d(line.double().numpy(), sigma=2.0, mode="mirror", radius=15)
    ours = gaussian_blur(line.expand(1, 3, 40, 40), torch.tensor([2.0]), 31)
    torch.testing.assert_close(ours[0, 0, 0].double(), torch.from_numpy(theirs), atol=1e-6, rtol=0)


@given(st.floats(0.125, 5, width=32), st.sampled_from([1, 3, 7, 11]))
def test_weights_sum_to_one_and_are_symmetric(sigma, kernel):
    weight = gaussian(torch.tensor([sigma]), kernel)
    torch.testing.assert_close(weight.sum(1), torch.ones(1))
    torch.testing.assert_close(weight, weight.flip(1))


def test_views_blur_and_solarise_with_their_probabilities():
    noise = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=seeded(0)).expand(2000, -1, -1, -1)
    still = {"size": 20, "scale": (1, 1), "ratio": (1, 1), "flip": 0, "jitter": 0, "grayscale": 0}
    clean = noise[0] / 255
    blurred = ContrastiveViews(**still, blur=0.3, sigma=(0.5, 1.0))(noise, seeded(1)).flatten(0, 1)
    changed = (blurred - clean).abs().flatten(1).amax(1) > 1e-5
    assert changed.double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert len(blurred[changed].flatten(1).unique(dim=0)) == changed.sum()  # each with its own width
    solarised = ContrastiveViews(**still, solarize=0.2)(noise, seeded(2)).flatten(0, 1)
    changed = (solarised - clean).abs().flatten(1).amax(1) > 1e-5
    assert changed.double().mean().item() == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(solarised[changed], tv.solarize(clean, 0.5).expand(int(changed.sum()), -1, -1, -1))


def test_zero_probabilities_do_not_change_views():
    image = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=seeded(0))
    plain, never = ContrastiveViews(), ContrastiveViews(blur=1e-9)
    assert torch.equal(plain(image, seeded(3))[0], never(image, seeded(3))[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"blur": 1.5}, "blur has to be within"),
        ({"solarize": -0.1}, "solarize has to be within"),
        ({"blur": 0.5, "sigma": (0.0, 1.0)}, "sigma has to be"),
        ({"blur": 0.5, "sigma": (2.0, 1.0)}, "sigma has to be"),
        ({"blur": 0.5, "size": 16}, "too small for GaussianBlur"),
    ],
)
def test_invalid_settings_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        ContrastiveViews(**arguments)


def test_the_kernel_is_a_tenth_of_the_view():
    assert all(kernel_size(size) % 2 == 1 and abs(kernel_size(size) - size / 10) <= 1.4 for size in range(20, 300))
