"""Metrics are equal on several ranks and on one, and ``reset`` clears them."""

import torch

from simmim_pl.metrics import Alignment, EffectiveRank, EmbeddingStd, MutualInformation, Similarities, Uniformity
from tests.metrics.test_alignment import normal
from tests.runtime.test_distributed import on_ranks

PAIRS = torch.stack([normal(24, 5), normal(24, 5) + normal(24, 5, seed=1) / 2])


def everything(z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every metric of two views."""
    metrics = {
        "alignment": Alignment(),
        "information": MutualInformation(),
        "similarities": Similarities(10),
    }
    for metric in metrics.values():
        for part in z.split(3, dim=1):
            metric.update(part)
    width = z.shape[-1]
    of_rows = {
        "spectrum": EffectiveRank(width),
        "centred": EffectiveRank(width, centred=True),
        "spread": EmbeddingStd(width),
    }
    of_rows["uniformity"] = Uniformity()
    for metric in of_rows.values():
        for part in z[0].split(3):
            metric.update(part)
    found = {}
    for name, metric in (metrics | of_rows).items():
        value = metric.compute()
        found |= {f"{name} {key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return found


def on_a_rank(rank: int, ranks: int) -> dict[str, torch.Tensor]:
    return everything(PAIRS[:, :9] if rank == 0 else PAIRS[:, 9:])


def test_ranks_give_the_results_of_one_process():
    one = everything(PAIRS)
    for found in on_ranks(2, on_a_rank):
        assert found.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, msg=name)


def test_reset_clears_a_metric():
    for metric, batch in (
        (Alignment(), PAIRS),
        (Uniformity(), PAIRS[0]),
        (EffectiveRank(5), PAIRS[0]),
        (EmbeddingStd(5), PAIRS[0]),
    ):
        metric.update(torch.randn_like(batch))
        metric.reset()
        metric.update(batch)
        fresh = type(metric)(5) if isinstance(metric, (EffectiveRank, EmbeddingStd)) else type(metric)()
        fresh.update(batch)
        torch.testing.assert_close(metric.compute(), fresh.compute())
