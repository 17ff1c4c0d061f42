"""A learning rate search trains each head like torch's optimizer does alone; a diverging head affects no other."""

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import RawPixels
from simmim_pl.evaluation.training import (
    LRSearch,
    choose,
    cross_entropy,
    make_optimizer,
    train,
)

STEPS, WIDTH, CLASSES = 3, 5, 4


def context(seed: int = 0, data: ImageDataModule | None = None) -> EvaluationContext:
    return EvaluationContext(RawPixels(), data, "given", torch.device("cpu"), nullcontext, seed)


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Different random items in every step of every epoch."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        yield (
            torch.randn(8, WIDTH, generator=generator),
            torch.randint(CLASSES, (8,), generator=generator),
        )


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 7), nn.ReLU(), nn.Linear(7, CLASSES))


def seeded_network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network()


def alone(lr_search: LRSearch, lr: float, batch: int, seed: int) -> nn.Module:
    """The same head trained by a plain loop."""
    head = seeded_network(seed)
    kinds = {
        "sgd": lambda rate: torch.optim.SGD(head.parameters(), rate, momentum=0.9, weight_decay=lr_search.weight_decay),
        "adam": lambda rate: torch.optim.AdamW(head.parameters(), rate, weight_decay=lr_search.weight_decay),
    }
    optimizer = kinds[lr_search.optimizer](lr * batch / 256)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, lr_search.epochs * STEPS)
    for epoch in range(lr_search.epochs):
        for inputs, targets in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(head(inputs), targets).backward()
            optimizer.step()
            cosine.step()
    return head


def same(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(mine, theirs, atol=tolerance, rtol=tolerance) for mine, theirs in pairs)


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("sgd", 0.1), ("adam", 0.0), ("adam", 0.5)])
def test_every_head_of_a_search_equals_one_trained_alone(optimizer: str, decay: float) -> None:
    lr_search = LRSearch([1.0, 0.03, 0.3], optimizer, weight_decay=decay, epochs=4)
    heads = lr_search.train(network, batches, STEPS, 64, context(seed=3))
    assert list(heads) == [0.03, 0.3, 1.0]
    for lr, head in heads.items():
        assert same(head, alone(lr_search, lr, batch=64, seed=3), tolerance=1e-6)
        assert not same(head, seeded_network(3), tolerance=1e-3)


def test_all_heads_start_from_the_same_seeded_weights() -> None:
    still = LRSearch([1e-30, 2e-30], epochs=1)  # too slow to move any weight
    first, second = still.train(network, batches, STEPS, 256, context(seed=5)).values()
    assert same(first, second)
    assert same(first, seeded_network(5))
    assert not same(first, seeded_network(6), tolerance=1e-3)


def test_weights_depend_on_the_seed_and_not_on_global_state() -> None:
    lr_search = LRSearch([0.1], epochs=2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    (first,) = lr_search.train(network, batches, STEPS, 256, context(seed=2)).values()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    (again,) = lr_search.train(network, batches, STEPS, 256, context(seed=2)).values()
    (other,) = lr_search.train(network, batches, STEPS, 256, context(seed=3)).values()
    assert same(first, again)
    assert not same(first, other, tolerance=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_diverging_head_does_not_affect_others_and_is_not_selected(optimizer: str) -> None:
    wild = 1e30
    alone, beside = (
        LRSearch(lrs, optimizer, epochs=2).train(network, batches, STEPS, 256, context())
        for lrs in ([0.1, 0.2], [0.1, 0.2, wild])
    )
    assert not all(part.isfinite().all() for part in beside[wild].parameters())
    assert all(same(alone[lr], beside[lr]) for lr in alone)
    assert choose({0.1: 0.3, 0.2: 0.4, wild: 0.9}, beside) == 0.2
    assert choose({0.1: 0.4, 0.2: 0.4, wild: math.nan}, beside) == 0.1  # the lowest of equal ones
    with pytest.raises(InputError, match="diverged at every learning rate"):
        choose({wild: 0.9}, {wild: beside[wild]})


def test_the_learning_rate_is_for_256_items_per_step() -> None:
    (large,) = LRSearch([0.1], epochs=2).train(network, batches, STEPS, 512, context()).values()
    (reference,) = LRSearch([0.2], epochs=2).train(network, batches, STEPS, 256, context()).values()
    (small,) = LRSearch([0.1], epochs=2).train(network, batches, STEPS, 256, context()).values()
    assert same(large, reference, tolerance=1e-7)
    assert not same(large, small, tolerance=1e-3)


def test_heads_train_in_training_mode_and_are_returned_in_eval_mode() -> None:
    modes: list[tuple[bool, bool]] = []

    class Head(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(inputs)

    with torch.no_grad():  # as within Lightning's evaluation loop
        (head,) = LRSearch([0.1], epochs=1).train(lambda: Head(WIDTH, CLASSES), batches, STEPS, 256, context()).values()
    assert modes == [(True, True)] * STEPS
    assert not head.training


class Recording(torch.optim.SGD):
    """SGD that records the learning rate of every step."""

    def __init__(self, *args: object, **options: object) -> None:
        self.rates: list[list[float]] = []
        super().__init__(*args, **options)

    def step(self, closure: None = None) -> None:
        self.rates.append([group["lr"] for group in self.param_groups])
        super().step(closure)


def test_every_group_has_linear_warmup_and_cosine_from_its_own_peak() -> None:
    head = network()
    groups = [{"params": head[0].parameters(), "lr": 0.1}, {"params": head[2].parameters(), "lr": 0.4}]
    optimizer = Recording(groups, lr=1.0)
    train([head], [optimizer], batches, epochs=4, steps=STEPS, warmup=4)
    linear = [(step + 1) / 4 for step in range(4)]
    cosine = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    expected = torch.tensor([[0.1 * factor, 0.4 * factor] for factor in linear + cosine])
    torch.testing.assert_close(torch.tensor(optimizer.rates), expected)


def test_only_the_forward_pass_uses_the_given_precision() -> None:
    seen: list[torch.dtype] = []
    head = network()
    head[2].register_forward_hook(lambda module, given, logits: seen.append(logits.dtype))
    optimizer = make_optimizer("sgd", [{"params": head.parameters()}], 0.1, 0.0)
    train([head], [optimizer], batches, 1, STEPS, precision=lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen == [torch.bfloat16] * STEPS
    assert all(part.dtype == part.grad.dtype == torch.float32 for part in head.parameters())


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([(), (3, 2)]), st.sampled_from([-100, 255]), st.integers(0, 2**31))
def test_cross_entropy_equals_torchs_without_ignored_targets(place: tuple, ignore: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, CLASSES, *place, generator=generator)
    targets = torch.randint(CLASSES, (6, *place), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = ignore
    targets[0] = 0  # at least one is not ignored
    stored = targets.to(torch.uint8) if ignore == 255 else targets
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = cross_entropy(ours, stored, ignore), F.cross_entropy(theirs, targets, ignore_index=ignore)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_cross_entropy_without_targets_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, CLASSES, 3, 3).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 3, 3), 255, dtype=torch.uint8), 255)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_cross_entropy_is_computed_in_float32() -> None:
    logits, targets = torch.randn(50, CLASSES).bfloat16(), torch.arange(50) % CLASSES
    torch.testing.assert_close(cross_entropy(logits, targets, -100), F.cross_entropy(logits.float(), targets))


@pytest.mark.parametrize(
    ("lr", "epochs"), [((), 1), ((0.1, 0.0), 1), ((-0.1,), 1), ((0.1, math.nan), 1), ((math.inf,), 1), ((0.1,), 0)]
)
def test_a_schedule_that_trains_nothing_is_refused(lr: Iterable[float], epochs: int) -> None:
    with pytest.raises(InputError, match=r"(lr|epochs) has to be|at least one learning rate"):
        LRSearch(lr, epochs=epochs)  # type: ignore[arg-type]
