"""Lower bounds on the mutual information of two views, in nats: what the article maximises, measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.metrics.rows import Rows
from simmim_pl.runtime.unit_norm import unit

BLOCK = 2**22  # scores in memory at a time
TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # of the critic: similarity over temperature

Scores = Iterable[Float[Tensor, "_ N"]]  # rows of the matrix of critic scores f(x_i, y_j), in order; pairs are i = j


def infonce(scores: Scores) -> Float[Tensor, ""]:
    r"""InfoNCE: :math:`\operatorname{mean}_i [f_{ii} - \log \operatorname{mean}_j e^{f_{ij}}]`, at most log N.

    van den Oord et al. 2018 (arXiv 1807.03748); Poole et al. 2019 (arXiv 1905.06922). A bound in expectation
    for any critic, of little variance, but it cannot say more than log N. What is added to all scores does not matter.

    >>> round(infonce([torch.eye(2) * 100]).item(), 4)    # log 2
    0.6931
    """
    total, count = torch.zeros(()), 0
    for block, pairs in with_pairs(scores):
        total = total + (pairs - block.logsumexp(1) + math.log(block.shape[1])).sum()
        count += len(block)
    return total / count


def nwj(scores: Scores) -> Float[Tensor, ""]:
    r"""NWJ: :math:`\operatorname{mean}_i f_{ii} - e^{-1} \operatorname{mean}_{i \ne j} e^{f_{ij}}`.

    Nguyen, Wainwright & Jordan 2010; Poole et al. 2019. Unbiased, so for the optimal critic, 1 + the logarithm
    of the density ratio, it is the mutual information in expectation; its variance grows as e to the information. What
    is added to all scores matters: see :func:`critic`.
    """
    pairs, others = split(scores)
    return pairs - torch.exp(others - 1)


def smile(scores: Scores, clip: float = 5.0) -> Float[Tensor, ""]:
    r"""SMILE: Donsker–Varadhan's bound with the density ratio clipped, a trade of bias for variance.

    .. math::
        \operatorname*{mean}_i f_{ii}
        - \log \operatorname*{mean}_{i \ne j} \operatorname{clip}(e^{f_{ij}}, e^{-c}, e^{c})

    Song & Ermon 2020 (arXiv 1910.06222). Without the clip (an infinite one) it is Donsker & Varadhan's. With it
    it is no strict bound: it may lie above the truth. The scores are logarithms of a density ratio, or the clip means
    nothing.

    - ``clip``: c > 0, in nats.

    Raises:
        InputError: ``clip`` is not positive.
    """
    if not clip > 0:
        raise InputError(f"SMILE's clip is a positive number of nats, and is {clip}.")
    pairs, others = split(scores, clip)
    return pairs - others


def split(scores: Scores, clip: float = math.inf) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean score of the pairs, and logarithm of the mean exponential of all others, clipped."""
    of_pairs, of_others, count = [], [], 0
    for block, pairs in with_pairs(scores):
        others = block.clamp(-clip, clip)
        others.diagonal(count).fill_(-torch.inf)
        of_pairs.append(pairs.sum())
        of_others.append(others.logsumexp((0, 1)))
        count += len(block)
    if count < 2:
        raise InputError("A bound on mutual information needs two pairs at least.")
    return torch.stack(of_pairs).sum() / count, torch.stack(of_others).logsumexp(0) - math.log(count * (count - 1))


def with_pairs(scores: Scores) -> Iterator[tuple[Float[Tensor, "b N"], Float[Tensor, " b"]]]:
    """Each block with the scores of its pairs."""
    start = 0
    for block in scores:
        yield block, block.diagonal(start)
        start += len(block)


def similarities(
    x: Float[Tensor, "N P"], y: Float[Tensor, "N P"], temperature: float
) -> Iterator[Float[Tensor, "b N"]]:
    """The critic of contrastive learning: cosine similarity over the temperature, some rows at a time.

    Raises :class:`InputError` when the temperature is no positive number.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number, got {temperature}.")
    x, y = unit(x) / temperature, unit(y)
    height = max(BLOCK // len(y), 1)
    for start in range(0, len(x), height):
        yield x[start : start + height] @ y.T


def critic(x: Float[Tensor, "N P"], y: Float[Tensor, "N P"]) -> tuple[float, float]:
    """What makes a cosine similarity the best estimate of a density ratio on these pairs: temperature and constant.

    Any critic gives a lower bound, so the temperature need not be the one of training; the constant is what NWJ and
    SMILE need. Found on the pairs that are evaluated, both would make the bounds overestimates: give it other ones.
    """
    best = max(TEMPERATURES, key=lambda temperature: infonce(similarities(x, y, temperature)).item())
    return best, split(similarities(x, y, best))[1].item()


class MutualInformation(Rows):
    """The three bounds between the first two views of all images that it was shown, on all ranks.

    The critic is the cosine similarity, made a density ratio by :func:`critic` on every second image; the bounds are
    those of the others.

    Args:
        clip: of :func:`smile`, in nats.
    """

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def __init__(self, clip: float = 5.0) -> None:
        super().__init__()
        self.clip = clip

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Keep the projections of some images."""
        super().update(z[:2].transpose(0, 1))

    def compute(self) -> dict[str, Tensor]:
        """``infonce`` and its ``ceiling``, ``nwj``, ``smile``, in nats.

        Raises:
            InputError: it was shown fewer than four images.
        """
        x, y = self.gathered().unbind(1)
        if len(x) < 4:
            raise InputError(f"Information is found and evaluated on two images each at least, and here are {len(x)}.")
        temperature, constant = critic(x[1::2], y[1::2])  # in turn, for sets are often sorted by class
        x, y = x[::2], y[::2]

        def ratio(more: float = 0.0) -> Scores:
            return (block - constant + more for block in similarities(x, y, temperature))

        ceiling = torch.tensor(math.log(len(x)))
        return {
            "infonce": infonce(ratio()),
            "ceiling": ceiling,
            "nwj": nwj(ratio(1.0)),
            "smile": smile(ratio(), self.clip),
        }
