"""Information bounds on correlated Gaussians, whose mutual information is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from simmim_pl.contracts import InputError
from simmim_pl.metrics import MutualInformation, infonce, nwj, smile
from simmim_pl.metrics import mutual_information as module


def gaussians(number: int, information: float, dimensions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Pairs of correlated standard normal vectors that share this many nats, and their correlation."""
    rho = math.sqrt(1 - math.exp(-2 * information / dimensions))
    x, noise = torch.randn(2, number, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, rho * x + math.sqrt(1 - rho**2) * noise, rho


def optimal(x: torch.Tensor, y: torch.Tensor, rho: float) -> torch.Tensor:
    """The log density ratio p(x, y) / p(x) p(y) of every pair."""
    squares = rho**2 * (x.square().sum(1)[:, None] + y.square().sum(1)) - 2 * rho * x @ y.T
    return -0.5 * x.shape[1] * math.log(1 - rho**2) - squares / (2 * (1 - rho**2))


def draws(bound, information: float, number: int, times: int = 200, dimensions: int = 4) -> tuple[float, float]:
    """Mean of a bound with the optimal critic over draws, and the mean's standard error."""
    found = []
    for seed in range(times):
        x, y, rho = gaussians(number, information, dimensions, seed)
        found.append(bound(optimal(x, y, rho)).item())
    values = torch.tensor(found)
    return values.mean().item(), values.std().item() / math.sqrt(times)


@pytest.mark.parametrize("information", [0.5, 1.0, 2.0])
def test_nwj_is_unbiased_with_the_optimal_critic(information):
    mean, error = draws(lambda scores: nwj([1 + scores]), information, 128)
    assert mean == pytest.approx(information, abs=4 * error)
    assert error < 0.1


@pytest.mark.parametrize("information", [0.5, 1.0, 2.0])
def test_infonce_is_below_the_truth_and_approaches_it_with_more_pairs(information):
    few, error = draws(lambda scores: infonce([scores]), information, 8)
    many, small = draws(lambda scores: infonce([scores]), information, 512, times=50)
    assert few + 2 * error < many
    assert many == pytest.approx(information, abs=0.06 + 4 * small)
    assert many <= information + 4 * small


def test_infonce_saturates_at_the_logarithm_of_the_number_of_pairs_and_smile_does_not():
    information, number = 12.0, 64
    saturated, _ = draws(lambda scores: infonce([scores]), information, number, times=20)
    assert math.log(number) - 0.1 < saturated <= math.log(number)
    beyond, _ = draws(lambda scores: smile([scores]), information, number, times=20)
    assert beyond > math.log(number) + 2


def test_smile_trades_bias_for_variance():
    information, spread = 5.0, {}
    for clip in (1.0, math.inf):
        values = []
        for seed in range(100):
            x, y, rho = gaussians(64, information, 4, seed)
            values.append(smile([optimal(x, y, rho)], clip).item())
        spread[clip] = torch.tensor(values).std().item()
    assert spread[1.0] < spread[math.inf]
    small, error = draws(lambda scores: smile([scores], clip=20.0), 0.5, 256)
    assert small == pytest.approx(0.5, abs=0.02 + 4 * error)  # little to clip: Donsker–Varadhan, nearly unbiased


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 12), st.floats(0.5, 10), st.integers(0, 2**31))
def test_bounds_equal_their_formulas_for_any_block_size(number, height, scale, seed):
    scores = scale * torch.randn(number, number, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    blocks = scores.split(height)
    numbers = scores.numpy()
    pairs, others = numbers.diagonal().mean(), numbers[~torch.eye(number, dtype=torch.bool).numpy()]
    expected = (numbers.diagonal() - logsumexp(numbers, axis=1) + math.log(number)).mean()
    assert infonce(blocks).item() == pytest.approx(expected)
    assert infonce(blocks).item() <= math.log(number) + 1e-9
    mean = math.log(len(others))
    assert nwj(blocks).item() == pytest.approx(pairs - math.exp(logsumexp(others) - mean - 1))
    assert smile(blocks, 2.0).item() == pytest.approx(pairs - (logsumexp(others.clip(-2, 2)) - mean))
    assert smile(blocks, math.inf).item() >= nwj(blocks).item() - 1e-9  # log u ≤ u / e: Donsker–Varadhan is the tighter


def test_blocks_do_not_change_the_metric(monkeypatch):
    z = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    z[1] = z[0] + 0.3 * z[1]
    found = []
    for block in (2**22, 150):
        monkeypatch.setattr(module, "BLOCK_PAIRS", block)
        metric = MutualInformation()
        for part in z.split(20, dim=1):
            metric.update(part)
        found.append(metric.compute())
    assert found[0].keys() == {"infonce", "ceiling", "nwj", "smile"}
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-4, rtol=0)
    assert found[0]["ceiling"].item() == pytest.approx(math.log(25))


def test_the_critic_is_fitted_on_half_of_the_images_and_evaluated_on_the_other():
    x, y = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    y = x + y / 2
    metric = MutualInformation()
    metric.update(torch.stack([x, y]))
    found, losses = metric.compute(), {}
    for temperature in module.TEMPERATURES:
        losses[temperature] = [
            torch.nn.functional.cross_entropy(
                torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / temperature, torch.arange(20)
            )
            for a, b in ((x[1::2], y[1::2]), (x[::2], y[::2]))
        ]
    _, evaluated = min(losses.values(), key=lambda pair: pair[0])
    torch.testing.assert_close(found["infonce"], math.log(20) - evaluated)


def test_independent_views_have_no_information():
    metric = MutualInformation()
    metric.update(torch.randn(2, 4000, 16, generator=torch.Generator().manual_seed(0)))
    found = metric.compute()
    for name in ("infonce", "nwj", "smile"):
        assert abs(found[name].item()) < 0.05, name


def test_estimates_of_gaussians_are_below_the_truth():
    for seed in range(5):
        x, y, _ = gaussians(2000, 2.0, 16, seed)
        metric = MutualInformation()
        metric.update(torch.stack([x, y]))
        found = metric.compute()
        for name in ("infonce", "nwj", "smile"):
            assert 1.0 < found[name].item() < 2.1, name  # a cosine ignores the norm of a vector


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_an_invalid_clip_is_refused(clip):
    with pytest.raises(InputError, match="clip is a positive number of nats"):
        smile([torch.eye(3)], clip)


def test_one_pair_is_refused():
    with pytest.raises(InputError, match="two pairs at least"):
        nwj([torch.zeros(1, 1)])
