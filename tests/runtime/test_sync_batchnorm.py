"""BatchNorm over ranks equals torch's on the whole batch: output, gradients and running statistics."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from simmim_pl.contracts import InputError
from simmim_pl.runtime import distributed
from simmim_pl.runtime.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm
from tests.runtime.test_distributed import on_ranks

CPU = torch.device("cpu")
IMAGES = torch.randn(12, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
WEIGHTS = torch.randn(12, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def norms() -> dict[str, nn.Module]:
    torch.manual_seed(2)
    layers = {
        "2d": nn.BatchNorm2d(3),
        "1d": nn.BatchNorm1d(3, momentum=0.3, eps=1e-3),
        "flat": nn.BatchNorm1d(60),
        "plain": nn.BatchNorm2d(3, affine=False),
        "cumulative": nn.BatchNorm2d(3, momentum=None),
        "no statistics": nn.BatchNorm2d(3, track_running_stats=False),
        "channels last": nn.BatchNorm2d(3),
    }
    for layer in layers.values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return {name: layer.double() for name, layer in layers.items()}


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "1d": lambda x: x.flatten(2),
    "flat": lambda x: x.flatten(1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


def passes(rank: int, ranks: int, dtype: torch.dtype = torch.float64) -> dict[str, list[Tensor]]:
    """Two steps and an eval pass of each layer on this rank's share, with averaged parameter gradients."""
    found = {}
    for name, layer in norms().items():
        layer = layer.to(torch.float64 if dtype == torch.float64 else torch.float32)
        shape = SHAPES.get(name, lambda x: x)
        share = [shape(part[rank::ranks].to(dtype)) for part in (IMAGES, WEIGHTS)]
        holder = nn.Sequential(layer)
        before = list(holder.state_dict())
        convert_sync_batchnorm(holder, CPU)
        assert list(holder.state_dict()) == before
        assert isinstance(holder[0], SyncBatchNorm) == (ranks > 1)
        parts: list[Tensor] = []
        for _ in range(2):
            x = share[0].clone().requires_grad_()
            y = holder(x)
            (y.square() * share[1]).sum().backward()
            parts += [y.detach(), x.grad]
        parameters = [distributed.all_reduce_mean(parameter.grad) * ranks for parameter in layer.parameters()]
        kept = [value.double() for value in layer.state_dict().values()]
        # Without running statistics eval mode uses this rank's statistics, like torch's SyncBatchNorm.
        parts.append(holder.train(not layer.track_running_stats)(share[0]).detach())
        found[name] = [*parts, *parameters, *kept]
    return found


def lowered(rank: int, ranks: int) -> dict[str, list[Tensor]]:
    return passes(rank, ranks, torch.bfloat16)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_normalise_like_one_process_on_the_whole_batch(ranks: int) -> None:
    one, many = passes(0, 1), on_ranks(ranks, passes)
    for name, expected in one.items():
        for number, value in enumerate(expected):
            of_items = number < 5  # per-item tensors are divided among ranks, others are shared
            for rank, theirs in enumerate(many):
                torch.testing.assert_close(theirs[name][number], value[rank::ranks] if of_items else value, msg=name)


def test_bfloat16_uses_statistics_in_float32() -> None:
    one, many = passes(0, 1, torch.bfloat16), on_ranks(2, lowered)
    for name, expected in one.items():
        for rank, theirs in enumerate(many):
            assert theirs[name][0].dtype == theirs[name][1].dtype == torch.bfloat16
            torch.testing.assert_close(theirs[name][0], expected[0][rank::2], atol=0.03, rtol=0.03)
            torch.testing.assert_close(theirs[name][1], expected[1][rank::2], atol=0.2, rtol=0.05)
            for mine, value in zip(theirs[name][5:], expected[5:], strict=True):
                torch.testing.assert_close(mine, value, atol=0.05, rtol=2e-2)


def test_on_one_rank_nothing_changes() -> None:
    layer = nn.Sequential(nn.BatchNorm2d(3))
    convert_sync_batchnorm(layer, CPU)
    assert type(layer[0]) is nn.BatchNorm2d


def test_torchs_sync_batchnorm_is_used_where_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    layer = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(2)))
    convert_sync_batchnorm(layer, torch.device("cuda"))
    assert [type(part) for part in (layer[0], layer[1][0])] == [nn.SyncBatchNorm] * 2
    convert_sync_batchnorm(layer, CPU)  # and not converted again
    assert type(layer[0]) is nn.SyncBatchNorm


class Activated(nn.BatchNorm2d):
    """Like timm's: normalisation, then ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_layer_that_does_more_is_refused_and_unchanged(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    layer = nn.Sequential(nn.BatchNorm2d(3), Activated(3))
    with pytest.raises(InputError, match="Activated does more than normalise, and cannot be synchronised"):
        convert_sync_batchnorm(layer, torch.device(device))
    assert [type(part) for part in layer] == [nn.BatchNorm2d, Activated]
