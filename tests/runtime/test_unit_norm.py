"""Normalised rows equal a reference in higher precision, for any norm; zero rows stay zero."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.protocols.knn import knn_scores, votes
from simmim_pl.losses import NTXent, nt_xent
from simmim_pl.metrics import EmbeddingStd, Similarities, alignment, contrastive_accuracy, uniformity
from simmim_pl.metrics.mutual_information import cosine_scores, smile
from simmim_pl.runtime.unit_norm import unit

NO_NUMBER = [0.0, -1.0, float("nan"), float("inf")]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(-126, 125), st.integers(0, 100), st.integers(1, 300))
def test_rows_of_any_norm_equal_numpy_in_higher_precision(power, seed, width):
    z = normal(3, width, seed=seed) * 2.0**power
    z = z.clamp(-3e38, 3e38)
    wide = z.double().numpy()
    expected = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    np.testing.assert_allclose(unit(z), expected, atol=1e-5 if power < -115 else 3e-7)


def test_usual_rows_and_gradients_are_bit_identical_to_torch():
    z = normal(50, 16).requires_grad_()
    other = z.detach().clone().requires_grad_()
    weight = normal(50, 16, seed=1)
    (unit(z) * weight).sum().backward()
    (F.normalize(other, dim=-1) * weight).sum().backward()
    assert torch.equal(unit(z), F.normalize(z, dim=-1))
    assert torch.equal(z.grad, other.grad)


def test_a_zero_row_stays_zero_without_gradient():
    z = torch.cat([torch.zeros(1, 4), normal(2, 4)]).requires_grad_()
    (unit(z) * normal(3, 4, seed=1)).sum().backward()
    assert unit(z)[0].tolist() == [0, 0, 0, 0]
    assert z.grad[0].tolist() == [0, 0, 0, 0]
    assert z.grad[1:].abs().min() > 0


def test_nan_stays_nan():
    assert unit(torch.tensor([[1.0, float("nan")], [float("inf"), 1.0]])).isnan().any(1).all()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_functions_of_directions_ignore_norms(scale):
    z, labels = normal(2, 6, 5), torch.arange(6) % 2
    far, one = (z * scale).requires_grad_(), z.clone().requires_grad_()
    nt_xent(far).backward()
    nt_xent(one).backward()
    assert nt_xent(far).item() == pytest.approx(nt_xent(one).item(), abs=1e-6)
    torch.testing.assert_close(far.grad.double() * scale, one.grad.double(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(alignment(z * scale), alignment(z))
    torch.testing.assert_close(uniformity(z[0] * scale), uniformity(z[0]))
    torch.testing.assert_close(contrastive_accuracy(z * scale), contrastive_accuracy(z))
    near = [knn_scores(rows, labels, rows, 2, k=3) for rows in (z[0] * scale, z[0])]
    torch.testing.assert_close(*near)
    for kind in (EmbeddingStd(5), Similarities(10)):
        found = []
        for rows in (z * scale, z):
            kind.reset()
            kind.update(rows if isinstance(kind, Similarities) else rows[0])
            found.append(kind.compute())
        torch.testing.assert_close(*found)


def test_zero_rows_are_at_the_centre_of_the_sphere():
    nothing, z = torch.zeros(1, 6, 5), normal(1, 6, 5)
    torch.testing.assert_close(alignment(torch.cat([nothing, z])), torch.ones(6))
    assert alignment(torch.cat([nothing, nothing])).tolist() == [0] * 6
    torch.testing.assert_close(alignment(torch.cat([nothing, z, z])), torch.full((6,), 2 / 3))
    # A network with zero output has collapsed, not spread.
    assert uniformity(nothing[0]).item() == 0
    assert uniformity(torch.cat([nothing[0, :1], z[0, :1]])).item() == pytest.approx(-2)
    mixed = torch.cat([nothing[0, :2], z[0]])
    rows = unit(mixed).double()
    distance = (rows[:, None] - rows).square().sum(-1)[~torch.eye(8, dtype=torch.bool)]
    assert uniformity(mixed).item() == pytest.approx(distance.mul(-2).exp().mean().log().item(), abs=1e-6)


def test_zero_rows_have_similarity_zero_and_no_gradient():
    z = torch.zeros(2, 3, 4).requires_grad_()
    loss = nt_xent(z)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(5), abs=1e-6)  # none of five rows is nearer
    assert z.grad.abs().max() == 0


@pytest.mark.parametrize("temperature", NO_NUMBER)
def test_a_temperature_that_is_not_positive_is_refused_everywhere(temperature):
    z = normal(2, 4, 3)
    for attempt in (
        lambda: NTXent(temperature),
        lambda: nt_xent(z, temperature),
        lambda: votes(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int64), 2, 1, temperature),
        lambda: next(cosine_scores(z[0], z[1], temperature)),
    ):
        with pytest.raises(InputError, match=r"temperature (has to be|must be a positive number)"):
            attempt()
    with pytest.raises(InputError, match="t must be a positive number"):
        uniformity(z[0], temperature)
    if not temperature > 0:  # an infinite clip means no clipping
        with pytest.raises(InputError, match="clip is a positive number"):
            smile([z[0] @ z[1].T], temperature)
