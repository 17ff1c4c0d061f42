"""NT-Xent compared with two published implementations, the paper's algorithm in NumPy, identities and limits."""

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import DCLLoss, NTXentLoss
from pytorch_metric_learning.losses import NTXentLoss as MetricNTXent
from pytorch_metric_learning.losses import SupConLoss
from torch.utils._python_dispatch import TorchDispatchMode

from simmim_pl.contracts import InputError
from simmim_pl.losses import NTXent, nt_xent
from simmim_pl.losses.nt_xent import contrastive_accuracy

page = import_module("simmim_pl.losses.nt_xent")  # the package's attribute of that name is the function


def projections(views: int, batch: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(views, batch, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def algorithm_1(z: np.ndarray, temperature: float) -> float:
    """Chen et al. 2020, Algorithm 1, written with the paper's loops: z_{2k-1} and z_{2k} are views of image k."""
    rows = z.transpose(1, 0, 2).reshape(-1, z.shape[-1])
    number = len(rows)

    def s(i: int, j: int) -> float:
        return float(rows[i] @ rows[j] / (np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])))

    def ell(i: int, j: int) -> float:
        below = sum(math.exp(s(i, k) / temperature) for k in range(number) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / below)

    return sum(ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k) for k in range(number // 2)) / number


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(2, 9),
    width=st.integers(2, 17),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 10**6),
)
def test_two_views_equal_algorithm_1_and_two_published_implementations(
    batch: int, width: int, temperature: float, seed: int
) -> None:
    z = projections(2, batch, width, seed)
    ours = nt_xent(z, temperature).item()
    assert ours == pytest.approx(algorithm_1(z.numpy(), temperature), abs=1e-6)
    assert ours == pytest.approx(NTXentLoss(temperature)(z[0], z[1]).item(), abs=1e-6)
    image = torch.arange(batch).repeat(2)
    assert ours == pytest.approx(MetricNTXent(temperature)(z.flatten(0, 1), image).item(), abs=1e-6)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_any_number_of_views_equals_supcon_with_one_class_per_image(views: int) -> None:
    z = projections(views, 6, 8)
    image = torch.arange(6).repeat(views)
    assert nt_xent(z, 0.3).item() == pytest.approx(SupConLoss(0.3)(z.flatten(0, 1), image).item(), abs=1e-6)


@pytest.mark.parametrize("decoupled", [False, True])
def test_gradient_equals_finite_differences(decoupled: bool) -> None:
    z = projections(3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.5, decoupled), (z,))


def plain(z: torch.Tensor, temperature: float, decoupled: bool = False) -> torch.Tensor:
    """The definition over the whole matrix of similarities."""
    rows = torch.nn.functional.normalize(z, dim=-1).flatten(0, 1)
    similarity = rows @ rows.T / temperature
    itself = torch.eye(len(rows), dtype=torch.bool)
    image = torch.arange(z.shape[1]).repeat(z.shape[0])
    positive = (image[:, None] == image) & ~itself
    agreement = (similarity * positive).sum(1) / positive.sum(1)
    left_out = itself | positive if decoupled else itself
    return (similarity.masked_fill(left_out, -torch.inf).logsumexp(1) - agreement).mean()


@settings(deadline=None, max_examples=40)
@given(
    views=st.integers(2, 4),
    batch=st.integers(2, 9),
    temperature=st.floats(0.005, 2.0),
    block=st.integers(1, 400),
    decoupled=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_blocks_do_not_change_loss_gradient_or_accuracy(
    views: int, batch: int, temperature: float, block: int, decoupled: bool, seed: int
) -> None:
    ours, theirs = (projections(views, batch, 5, seed).requires_grad_() for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "BLOCK", block)
        loss, accuracy = nt_xent(ours, temperature, decoupled), contrastive_accuracy(ours)
        (3 * loss).backward()
    (3 * plain(theirs, temperature, decoupled)).backward()
    assert loss.item() == pytest.approx(plain(theirs, temperature, decoupled).item(), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-9)
    assert accuracy.item() == pytest.approx(contrastive_accuracy(theirs).item())


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any tensor created in this mode."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return result


def test_memory_is_linear_in_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "BLOCK", 2**12)
    z = projections(2, 1024, 8, dtype=torch.float32).requires_grad_()
    with Largest() as largest:
        nt_xent(z).backward()
        contrastive_accuracy(z)
    assert largest.elements <= 2 * 1024 * 8  # as many as the projections; the square has 4 million
    with Largest() as square:
        plain(z, 0.5).backward()
    assert square.elements >= 2048**2  # the mode does detect it


@pytest.mark.parametrize("temperature", [1e-3, 0.01])
def test_a_low_temperature_neither_overflows_nor_loses_distant_rows(temperature: float) -> None:
    z = projections(2, 16, 4, dtype=torch.float32).requires_grad_()
    loss = nt_xent(z, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(plain(z.detach().double(), temperature).item(), rel=1e-4)
    assert z.grad.isfinite().all()


def test_decoupled_loss_equals_lightly() -> None:
    z = projections(2, 7, 6)
    assert nt_xent(z, 0.2, decoupled=True).item() == pytest.approx(DCLLoss(0.2)(z[0], z[1]).item(), abs=1e-9)


@pytest.mark.parametrize(("decoupled", "published"), [(False, NTXentLoss), (True, DCLLoss)])
def test_gradient_equals_lightly(decoupled: bool, published: Any) -> None:
    ours, theirs = (projections(2, 7, 6).requires_grad_() for _ in range(2))
    nt_xent(ours, 0.2, decoupled).backward()
    published(0.2)(theirs[0], theirs[1]).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(views=st.integers(2, 4), batch=st.integers(2, 6), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10**6))
def test_length_order_of_views_and_order_of_images_do_not_matter(
    views: int, batch: int, scale: float, seed: int
) -> None:
    z = projections(views, batch, 5, seed)
    shuffled = z[torch.randperm(views)][:, torch.randperm(batch)] * scale
    torch.testing.assert_close(nt_xent(shuffled), nt_xent(z), atol=1e-9, rtol=1e-9)


def test_the_loss_of_a_collapse_is_the_logarithm_of_the_other_rows() -> None:
    assert nt_xent(torch.ones(2, 8, 4)).item() == pytest.approx(math.log(2 * 8 - 1), abs=1e-6)


def test_perfect_features_reach_the_bound_of_a_low_temperature() -> None:
    assert nt_xent(torch.eye(8).expand(2, 8, 8), temperature=0.02).item() == pytest.approx(0.0, abs=1e-6)


def test_float32_whatever_autocast_says() -> None:
    z = projections(2, 32, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, low = nt_xent(z, 0.1), nt_xent(z.bfloat16(), 0.1)
    assert inside.dtype == low.dtype == torch.float32
    assert inside.item() == nt_xent(z, 0.1).item()
    assert low.item() == nt_xent(z.bfloat16().float(), 0.1).item()


def test_contrastive_accuracy_counts_anchors_whose_nearest_row_is_a_positive() -> None:
    z = torch.eye(4)[None].repeat(2, 1, 1)
    assert contrastive_accuracy(z).item() == 1.0
    z[1, 0] = z[0, 1] * 2  # image 0's second view looks like image 1: both its anchors fail, image 1's are tied
    assert contrastive_accuracy(z).item() < 1.0
    assert contrastive_accuracy(projections(2, 512, 64)).item() < 0.05


def test_contrastive_accuracy_equals_numpy_also_under_autocast() -> None:
    z = 3 + 0.1 * projections(2, 64, 16, dtype=torch.float32)  # as similar as rows near collapse
    z[1] += 0.5 * (z[0] - z[1])
    rows = z.double().flatten(0, 1).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    expected = (similarity.argmax(1) % 64 == np.arange(128) % 64).mean()
    assert 0.3 < expected < 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_accuracy(z).item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("z", "temperature", "says"),
    [
        (torch.ones(1, 4, 2), 0.5, "two views"),
        (torch.ones(2, 1, 2), 0.5, "no negatives"),
        (torch.ones(2, 4, 2), 0.0, "temperature"),
    ],
)
def test_invalid_input_is_refused(z: torch.Tensor, temperature: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        nt_xent(z, temperature)


def test_the_module_is_the_function() -> None:
    z = projections(2, 5, 3, dtype=torch.float32)
    assert NTXent(0.3)(z).item() == nt_xent(z, 0.3).item()
    assert NTXent(0.3, decoupled=True)(z).item() == nt_xent(z, 0.3, decoupled=True).item() < nt_xent(z, 0.3).item()
    with pytest.raises(InputError, match="temperature"):
        NTXent(-1)
