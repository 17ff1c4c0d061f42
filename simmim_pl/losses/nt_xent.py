"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR: InfoNCE over every view of every image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.gpu import nt_xent as fused
from simmim_pl.losses.loss import Loss
from simmim_pl.runtime import distributed
from simmim_pl.runtime.once_differentiable import no_double_backward
from simmim_pl.runtime.ranges import PositiveFloat, ranged
from simmim_pl.runtime.unit_norm import unit as on_sphere

BLOCK = 2**22  #: similarities in memory at a time, 16 MB, about what a CPU's cache holds; 16 times that on a GPU


def nt_xent(z: Float[Tensor, "V B P"], temperature: float = 0.5, decoupled: bool = False) -> Float[Tensor, ""]:
    r"""Pull the views of an image together, push all other images away.

    With :math:`s_{ak}` the cosine similarity of rows :math:`a` and :math:`k` over the temperature, and
    :math:`\mathcal{P}(a)` the other views of anchor :math:`a`'s image:

    .. math::
        \ell = \operatorname*{mean}_{a} \Big[ \log \sum_{k \ne a} e^{s_{ak}}
               - \operatorname*{mean}_{p \in \mathcal{P}(a)} s_{ap} \Big]

    - ``z``: projections ``[V, B, P]`` of V ≥ 2 views, not normalised. ``z[v, i]`` and ``z[w, i]`` show the same image.
    - Result: scalar, in nats, the mean over this rank's anchors. The ranks' mean is the loss of the whole batch.
    - For V = 2 this is eq. 1 of Chen et al. 2020 (arXiv 2002.05709); for V > 2 the anchor's term is eq. 2 of Khosla et
      al. 2020 (arXiv 2004.11362) with one class an image.
    - With V = 2, N images in all and independent negatives, ``log(2N - 1) - loss`` bounds the mutual information of two
      views from below, in expectation (van den Oord et al. 2018, arXiv 1807.03748).
    - ``decoupled``: the first sum is over rows of other images only, for V = 2 eq. 6 of Yeh et al. 2022 (arXiv
      2110.06848): an anchor's gradient no longer fades as its positives are found. This loss can be negative, and
      bounds no mutual information.
    - Negatives come from every rank, with gradient. The arithmetic is float32 at least, whatever autocast says.
    - A row of zeros has no direction: its similarity to every row is 0, and no gradient moves it.
    - There is no second derivative; asking for one is refused.

    Raises:
        InputError: there is one view only, one image only, or the temperature is no positive number.

    Two views that agree, two images that are orthogonal: one positive at 1/τ, two negatives at 0.

    >>> z = torch.eye(2).expand(2, 2, 2)
    >>> round(nt_xent(z, temperature=1.0).item(), 4)   # log(e + 2) - 1
    0.5514
    """
    check(z, temperature)
    if fused.serves(z):
        return fused.nt_xent(z, temperature, decoupled)
    with torch.autocast(z.device.type, enabled=False):
        unit = on_sphere(z)
        anchors = unit.flatten(0, 1)
        views = z.shape[0] if decoupled else 1
        partition: Tensor = LogPartition.apply(anchors, distributed.all_gather(anchors), temperature, views)
        others = unit.sum(0) - unit  # of the other views of the same image, whose mean similarity is linear in them
        agreement = (unit * others).sum(-1).mean() / (z.shape[0] - 1) / temperature
        return partition - agreement


class LogPartition(torch.autograd.Function):
    """Mean over anchors of ``log Σ_k exp(a · k / τ)`` over the rows ``k`` of :func:`blocks`, in linear memory.

    Each block of anchors is compared with all rows at once, so the forward pass also computes its softmax, and with it
    the gradient: three matrix products in all, none of them repeated in the backward pass, and no more than
    :data:`BLOCK` similarities in memory. With several ranks, each computes only its own anchors.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Float[Tensor, "A P"], rows: Float[Tensor, "K P"], temperature: float, views: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        by_anchors, by_rows = torch.empty_like(anchors), torch.zeros_like(rows)
        total = anchors.new_zeros(())
        for mine, similarity in blocks(anchors, rows, temperature, views):
            greatest = similarity.amax(1, keepdim=True)
            weight = similarity.sub_(greatest).exp_()
            mass = weight.sum(1, keepdim=True)
            total += (greatest + mass.log()).sum()
            if wanted:
                torch.mm(weight, rows, out=by_anchors[mine]).div_(mass)
                by_rows.addmm_(weight.T, anchors[mine] / mass)
        scale = 1 / (len(anchors) * temperature)
        ctx.save_for_backward(by_anchors.mul_(scale), by_rows.mul_(scale))
        return total / len(anchors)

    @staticmethod
    @no_double_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_anchors, by_rows = ctx.saved_tensors
        return grad * by_anchors, grad * by_rows, None, None


@torch.no_grad()
def contrastive_accuracy(z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
    """Share of anchors whose nearest other row is a view of the same image: top-1 of the pretext task, in [0, 1].

    In a tie the first row counts; in the GPU kernels, a row of another image.

    >>> contrastive_accuracy(torch.eye(2).expand(2, 2, 2)).item()
    1.0
    """
    if fused.serves(z):
        return fused.contrastive_accuracy(z)
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 similarities tie, and the first of equals would win
        anchors = on_sphere(z).flatten(0, 1)
        rows, batch = distributed.all_gather(anchors), z.shape[1]
        nearest = torch.cat([similarity.argmax(1) for _, similarity in blocks(anchors, rows, 1.0)])
    own = nearest // len(anchors) == distributed.rank()  # all views of an image are on one rank
    image = torch.arange(len(anchors), device=z.device) % batch
    return (own & (nearest % batch == image)).float().mean()


class NTXent(Loss):
    """NT-Xent with its temperature, see :func:`nt_xent`.

    Args:
        temperature: τ > 0; small values weigh the hardest negatives most. 0.5 in SimCLR on CIFAR-10.
        decoupled: leave an anchor's positives out of the sum over all rows, as DCL does.
    """

    @ranged
    def __init__(self, temperature: PositiveFloat = 0.5, decoupled: bool = False) -> None:
        super().__init__()
        self.temperature, self.decoupled = temperature, decoupled

    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        return nt_xent(z, self.temperature, self.decoupled)

    def at_chance(self, views: int, images: int, width: int) -> float:
        """The logarithm of the number of rows that an anchor is compared with."""
        return math.log(views * images - (views if self.decoupled else 1))


def check(z: Float[Tensor, "V B P"], temperature: float) -> None:
    """Raise :class:`InputError` for input on which the loss is not defined."""
    require_temperature(temperature)
    if z.shape[0] < 2:
        raise InputError("A contrastive loss needs at least two views of every image: set views to 2 or more.")
    if z.shape[1] * distributed.world_size() < 2:
        raise InputError("A batch of one image has no negatives: set batch_size to 2 or more.")


def require_temperature(temperature: float) -> None:
    """Refuse what is no positive number."""
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number, got {temperature}.")


def blocks(
    anchors: Float[Tensor, "A P"], rows: Float[Tensor, "K P"], temperature: float, views: int = 1
) -> Iterator[tuple[slice, Float[Tensor, "b K"]]]:
    """Similarities of this rank's anchors to all ranks' rows, in blocks of anchors; minus infinity to itself.

    Rows are ordered by rank, view, image. With ``views`` = V, similarities to all rows of the anchor's own image are
    minus infinity too; with 1, those to its positives stay. The caller may overwrite a block.
    """
    first = distributed.rank() * len(anchors)
    height = max((BLOCK if rows.device.type == "cpu" else 16 * BLOCK) // len(rows), 1)
    own = torch.arange(len(anchors), device=rows.device)
    others = own[:: len(anchors) // views]  # from a row to the views of its image: whole batches further
    for start in range(0, len(anchors), height):
        mine = slice(start, min(start + height, len(anchors)))
        similarity = (anchors[mine] / temperature) @ rows.T
        similarity.scatter_(1, first + (own[mine, None] + others) % len(anchors), -torch.inf)
        yield mine, similarity
