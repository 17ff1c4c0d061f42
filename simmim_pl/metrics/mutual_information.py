"""Lower bounds on the mutual information between two views, in nats: the quantity that the article maximises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.metrics.rows import RowsMetric
from simmim_pl.runtime.unit_norm import unit

BLOCK_PAIRS = 2**22  # scores held in memory at once
TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # candidates for the critic

Scores = Iterable[Float[Tensor, "_ N"]]  # the matrix of critic scores f(x_i, y_j) in blocks of rows; i = j is positive


def infonce(scores: Scores) -> Float[Tensor, ""]:
    r"""InfoNCE: :math:`\operatorname{mean}_i [f_{ii} - \log \operatorname{mean}_j e^{f_{ij}}]`, at most log N.

    van den Oord et al. 2018 (arXiv 1807.03748); Poole et al. 2019 (arXiv 1905.06922). A lower bound in expectation for
    any critic. It has low variance but cannot exceed log N. A constant added to all scores does not change it.

    Args:
        scores: critic scores in blocks of rows.

    >>> round(infonce([torch.eye(2) * 100]).item(), 4)    # log 2
    0.6931
    """
    total, count = torch.zeros(()), 0
    for block, positives in with_positives(scores):
        total = total + (positives - block.logsumexp(1) + math.log(block.shape[1])).sum()
        count += len(block)
    return total / count


def nwj(scores: Scores) -> Float[Tensor, ""]:
    r"""NWJ: :math:`\operatorname{mean}_i f_{ii} - e^{-1} \operatorname{mean}_{i \ne j} e^{f_{ij}}`.

    Nguyen, Wainwright & Jordan 2010; Poole et al. 2019. A lower bound in expectation for any critic. For the optimal
    critic, 1 + log density ratio, it equals the mutual information in expectation, but its variance grows exponentially
    with it. A constant added to all scores does change it, see :func:`fit_critic`.

    Args:
        scores: critic scores in blocks of rows.

    Raises:
        InputError: there are fewer than two pairs.
    """
    positive, negative = positive_and_negative_terms(scores)
    return positive - torch.exp(negative - 1)


def smile(scores: Scores, clip: float = 5.0) -> Float[Tensor, ""]:
    r"""SMILE: the Donsker–Varadhan bound with a clipped density ratio, which trades variance for bias.

    .. math::
        \operatorname*{mean}_i f_{ii}
        - \log \operatorname*{mean}_{i \ne j} \operatorname{clip}(e^{f_{ij}}, e^{-c}, e^{c})

    Song & Ermon 2020 (arXiv 1910.06222). With an infinite clip it is the Donsker–Varadhan bound. With a finite one it
    may exceed the mutual information. The scores must be log density ratios for the clip to have a meaning.

    Args:
        scores: critic scores in blocks of rows.
        clip: c > 0, in nats.

    Raises:
        InputError: ``clip`` is not positive, or there are fewer than two pairs.
    """
    if not clip > 0:
        raise InputError(f"SMILE's clip is a positive number of nats, and is {clip}.")
    positive, negative = positive_and_negative_terms(scores, clip)
    return positive - negative


def positive_and_negative_terms(scores: Scores, clip: float = math.inf) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean of the positive scores, and log of the mean exponential of the negative scores, clipped to ± ``clip``."""
    positive_sums, negative_logsums, count = [], [], 0
    for block, positives in with_positives(scores):
        negatives = block.clamp(-clip, clip)
        negatives.diagonal(count).fill_(-torch.inf)
        positive_sums.append(positives.sum())
        negative_logsums.append(negatives.logsumexp((0, 1)))
        count += len(block)
    if count < 2:
        raise InputError("A bound on mutual information needs two pairs at least.")
    negative = torch.stack(negative_logsums).logsumexp(0) - math.log(count * (count - 1))
    return torch.stack(positive_sums).sum() / count, negative


def with_positives(scores: Scores) -> Iterator[tuple[Float[Tensor, "b N"], Float[Tensor, " b"]]]:
    """Each block of rows with its positive scores, the diagonal of the whole matrix."""
    start = 0
    for block in scores:
        yield block, block.diagonal(start)
        start += len(block)


def cosine_scores(
    x: Float[Tensor, "N P"], y: Float[Tensor, "N P"], temperature: float
) -> Iterator[Float[Tensor, "b N"]]:
    """The critic of contrastive learning, cosine similarity / temperature, in blocks of rows.

    Args:
        x: projections ``[N, P]`` of one view, not normalised.
        y: projections of the other view; row i belongs to row i of ``x``.
        temperature: positive.

    Raises:
        InputError: the temperature is not a positive number.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number, got {temperature}.")
    x, y = unit(x) / temperature, unit(y)
    height = max(BLOCK_PAIRS // len(y), 1)
    for start in range(0, len(x), height):
        yield x[start : start + height] @ y.T


def fit_critic(x: Float[Tensor, "N P"], y: Float[Tensor, "N P"]) -> tuple[float, float]:
    """Fit the critic: :func:`cosine_scores` minus a constant, as an estimate of the log density ratio.

    Any critic gives a lower bound, so the temperature need not be that of training. NWJ and SMILE need the constant.
    Fit on other pairs than the bounds are evaluated on, or the bounds are too high.

    Args:
        x: projections ``[N, P]`` of one view.
        y: projections of the other view.

    Returns:
        Temperature with the highest InfoNCE, and the constant.
    """
    best = max(TEMPERATURES, key=lambda temperature: infonce(cosine_scores(x, y, temperature)).item())
    return best, positive_and_negative_terms(cosine_scores(x, y, best))[1].item()


class MutualInformation(RowsMetric):
    """The three bounds for the first two views of all images of all updates, on all ranks.

    :func:`fit_critic` uses every second image; the bounds are evaluated on the others.

    Args:
        clip: of :func:`smile`, in nats.
    """

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def __init__(self, clip: float = 5.0) -> None:
        super().__init__()
        self.clip = clip

    def update(self, z: Float[Tensor, "V B P"]) -> None:
        """Add projections ``[V, B, P]`` of some images; the first two views are kept."""
        super().update(z[:2].transpose(0, 1))

    def compute(self) -> dict[str, Tensor]:
        """``infonce`` and its maximum ``ceiling``, ``nwj`` and ``smile``, in nats.

        Raises:
            InputError: there are fewer than four images.
        """
        x, y = self.gathered().unbind(1)
        if len(x) < 4:
            raise InputError(f"MutualInformation needs at least four images, and has {len(x)}.")
        temperature, constant = fit_critic(x[1::2], y[1::2])  # alternating, because sets are often sorted by class
        x, y = x[::2], y[::2]

        def scores(offset: float = 0.0) -> Scores:
            return (block - constant + offset for block in cosine_scores(x, y, temperature))

        ceiling = torch.tensor(math.log(len(x)))
        return {
            "infonce": infonce(scores()),
            "ceiling": ceiling,
            "nwj": nwj(scores(1.0)),
            "smile": smile(scores(), self.clip),
        }
