"""Colour operations equal torchvision's for the same parameters, with torchvision's distribution."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import ColorJitter
from torchvision.transforms.v2 import functional as tv

from simmim_pl.views.color_jitter import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Jitter,
    jitter,
    sample_jitter,
    turn_hue,
)
from simmim_pl.views.grayscale import grayscale

CPU = torch.device("cpu")
STRENGTH = (0.4, 0.4, 0.4, 0.1)
THEIRS = {
    BRIGHTNESS: tv.adjust_brightness,
    CONTRAST: tv.adjust_contrast,
    SATURATION: tv.adjust_saturation,
    HUE: tv.adjust_hue,
}

seeds = st.integers(0, 2**31)
multiples = st.floats(0, 3, width=32)
factors = st.tuples(multiples, multiples, multiples, st.floats(-0.5, 0.5, width=32))
orders = st.permutations(range(4))


def images(batch: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Random images in which a quarter of the pixels are grey, black, white or have two equal channels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator)
    level = torch.rand(batch, 3, height, width, generator=generator).mul(3).round() / 3
    odd = torch.rand(batch, 1, height, width, generator=generator) < 0.25
    return torch.where(odd, level, image)


def one_by_one(image: torch.Tensor, factor: list, order: list) -> torch.Tensor:
    """torchvision's result for each image."""
    for operation in order:
        image = THEIRS[operation](image, factor[operation])
    return image


@settings(deadline=None)
@given(st.lists(st.tuples(factors, orders), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 9), seeds)
def test_jitter_equals_torchvision(parameters, height, width, seed):
    image = images(len(parameters), height, width, seed)
    factor, order = zip(*parameters, strict=True)
    ours = jitter(image, Jitter(torch.tensor(factor), torch.tensor(order)))
    theirs = torch.stack([one_by_one(*each) for each in zip(image, factor, order, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("operation", THEIRS)
def test_each_operation_alone_equals_torchvision(operation):
    image = images(8, 16, 16, seed=operation)
    factor = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(8, 1)
    factor[:, operation] = torch.linspace(-0.5, 0.5, 8) if operation == HUE else torch.linspace(0, 2, 8)
    ours = jitter(image, Jitter(factor, torch.arange(4).repeat(8, 1)))
    value = factor[:, operation].tolist()
    theirs = torch.stack([THEIRS[operation](*each) for each in zip(image, value, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_idle_factors_change_nothing():
    image = images(3, 8, 8, seed=0)
    idle = Jitter(torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(3, 1), torch.arange(4).repeat(3, 1))
    assert torch.equal(jitter(image, idle), image)


def test_jitter_does_not_change_its_input():
    image = images(4, 8, 8, seed=0)
    before = image.clone()
    jitter(image, sample_jitter(4, 1.0, STRENGTH, torch.Generator().manual_seed(0), CPU))
    grayscale(image, torch.tensor([True, False, True, True]))
    assert torch.equal(image, before)


def test_a_third_of_the_circle_permutes_the_channels():
    pixel = images(2, 8, 8, seed=0).flatten(2)
    torch.testing.assert_close(turn_hue(pixel, torch.full((2,), 1 / 3)), pixel[:, [2, 0, 1]], atol=1e-5, rtol=0)
    torch.testing.assert_close(turn_hue(pixel, torch.full((2,), -1 / 3)), pixel[:, [1, 2, 0]], atol=1e-5, rtol=0)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=6), seeds)
def test_greyscale_equals_torchvision(mask, seed):
    image = images(len(mask), 5, 7, seed)
    ours = grayscale(image, torch.tensor(mask))
    for one, chosen, result in zip(image, mask, ours, strict=True):
        expected = tv.rgb_to_grayscale(one, num_output_channels=3) if chosen else one
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("strength", [STRENGTH, (0.8, 1.5, 0.2, 0.5)])
def test_factors_follow_torchvision(strength):
    count = 3000
    ours = sample_jitter(count, 1.0, strength, torch.Generator().manual_seed(0), CPU).factor
    reference = ColorJitter(*strength)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = [
            ColorJitter.get_params(reference.brightness, reference.contrast, reference.saturation, reference.hue)
            for _ in range(count)
        ]
    factor = torch.tensor([draw[1:] for draw in theirs])
    for operation in range(4):
        assert ks_2samp(ours[:, operation].numpy(), factor[:, operation].numpy()).pvalue > 0.01


def test_orders_are_uniform_permutations():
    order = sample_jitter(6000, 1.0, STRENGTH, torch.Generator().manual_seed(0), CPU).order
    counts = Counter(map(tuple, order.tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.8, 1.0])
def test_jitter_has_its_probability(probability):
    factor = sample_jitter(5000, probability, STRENGTH, torch.Generator().manual_seed(0), CPU).factor
    jittered = (factor != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(dim=1).double().mean().item()
    assert jittered == pytest.approx(probability, abs=0.02)
    assert probability not in (0.0, 1.0) or jittered == probability


def test_parameters_are_independent():
    drawn = sample_jitter(5000, 1.0, STRENGTH, torch.Generator().manual_seed(0), CPU)
    table = torch.cat((drawn.factor, drawn.order.argsort(dim=1)[:, :1]), dim=1)
    correlation = torch.corrcoef(table.T) - torch.eye(5)
    assert correlation.abs().max() < 0.06
