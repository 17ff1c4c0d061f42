"""MoCo v3's loss equals the paper's pseudo-code on any number of ranks, and has the logged value at chance."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.methods.moco_v3 import key_loss
from simmim_pl.runtime import distributed
from tests.methods.test_self_distillation import method


def ctr(q: Tensor, k: Tensor, tau: float) -> Tensor:
    """Algorithm 1 of the paper, line by line."""
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    logits = torch.mm(q, k.t())
    labels = torch.arange(len(q))
    loss = F.cross_entropy(logits / tau, labels)
    return 2 * tau * loss


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 6, 5, dtype=torch.float64, generator=generator).requires_grad_()
    return q, torch.randn(6, 5, dtype=torch.float64, generator=generator).requires_grad_()


def gradient(loss: Tensor, q: Tensor) -> Tensor:
    return torch.autograd.grad(loss, q)[0]


@pytest.mark.parametrize("tau", [0.05, 0.2, 1.0])
def test_the_loss_equals_the_papers_in_value_and_gradient(tau: float) -> None:
    q, k = batch()
    expected = torch.stack([ctr(each, k.detach(), tau) for each in q]).mean()
    found = key_loss(q, k, tau)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, q), gradient(expected, q))
    key_loss(q, k, tau).backward()
    assert k.grad is None


def test_two_views_give_ctr_q1_k2_plus_ctr_q2_k1() -> None:
    q, _ = batch()
    k, module = torch.randn(2, 6, 5, dtype=torch.float64), method("MoCoV3", temperature=0.3)
    found = (module.compare(q[1:2], k[0]) + module.compare(q[:1], k[1])) / 2
    torch.testing.assert_close(found, ctr(q[0], k[1], 0.3) + ctr(q[1], k[0], 0.3))


def test_keys_of_all_ranks_are_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = batch()
    expected, keys = key_loss(q, k), F.normalize(k.detach(), dim=1)
    monkeypatch.setattr(distributed, "all_gather", lambda mine: keys)
    losses = []
    for rank in range(2):  # tests/test_parity.py tests the same with processes
        mine = slice(3 * rank, 3 * rank + 3)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        losses.append(key_loss(q[:, mine], k[mine]))
    found = sum(losses) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, q), gradient(expected, q))


def test_chance_is_the_loss_of_identical_projections() -> None:
    module, z = method("MoCoV3", temperature=0.3), torch.ones(1, 6, 5)
    assert module.compare(z, z[0]).item() == pytest.approx(module.at_chance(6), abs=1e-6)
    assert module.at_chance(6) == pytest.approx(4 * 0.3 * math.log(6))


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="set batch_size to 2 or more"):
        key_loss(torch.ones(1, 1, 4), torch.ones(1, 4))


def test_under_autocast_it_is_float32() -> None:
    z = torch.randn(1, 4, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert key_loss(z, z[0]).dtype == torch.float32
