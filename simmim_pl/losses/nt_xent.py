"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR: InfoNCE over every view of every image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl import distributed
from simmim_pl.losses.loss import Loss
from simmim_pl.records import InputError


def nt_xent(z: Float[Tensor, "V B P"], temperature: float = 0.5) -> Float[Tensor, ""]:
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
    - Negatives come from every rank, with gradient. The arithmetic is float32 at least, whatever autocast says.

    Raises:
        InputError: there is one view only, one image only, or the temperature is not positive.

    Two views that agree, two images that are orthogonal: one positive at 1/τ, two negatives at 0.

    >>> z = torch.eye(2).expand(2, 2, 2)
    >>> round(nt_xent(z, temperature=1.0).item(), 4)   # log(e + 2) - 1
    0.5514
    """
    check(z, temperature)
    with torch.autocast(z.device.type, enabled=False):
        anchors, others = unit_rows(z)
        similarity = anchors @ others.T / temperature
        itself, positive = pairs(z.shape[0], z.shape[1], z.device)
        similarity = similarity.masked_fill(itself, -torch.inf)
        agreement = similarity.masked_fill(~positive, 0).sum(1) / (z.shape[0] - 1)
        return (similarity.logsumexp(1) - agreement).mean()


@torch.no_grad()
def contrastive_accuracy(z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
    """Share of anchors whose nearest other row is a view of the same image: the task's own top-1, in [0, 1].

    >>> contrastive_accuracy(torch.eye(2).expand(2, 2, 2)).item()
    1.0
    """
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 similarities tie, and the first of equals would win
        anchors, others = unit_rows(z)
        itself, positive = pairs(z.shape[0], z.shape[1], z.device)
        nearest = (anchors @ others.T).masked_fill(itself, -torch.inf).argmax(1, keepdim=True)
    return positive.gather(1, nearest).float().mean()


class NTXent(Loss):
    """NT-Xent with its temperature, see :func:`nt_xent`.

    Args:
        temperature: τ > 0; small values weigh the hardest negatives most. 0.5 in SimCLR on CIFAR-10.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def forward(self, z: Float[Tensor, "V B P"]) -> Float[Tensor, ""]:
        return nt_xent(z, self.temperature)


def check(z: Float[Tensor, "V B P"], temperature: float) -> None:
    """Refuse input for which the loss means nothing."""
    if temperature <= 0:
        raise InputError(f"temperature must be positive, got {temperature}.")
    if z.shape[0] < 2:
        raise InputError("A contrastive loss needs at least two views of every image: set views to 2 or more.")
    if z.shape[1] * distributed.world_size() < 2:
        raise InputError("A batch of one image has no negatives: set batch_size to 2 or more.")


def unit_rows(z: Float[Tensor, "V B P"]) -> tuple[Float[Tensor, "A P"], Float[Tensor, "K P"]]:
    """Unit-length rows of this rank (anchors, V·B) and of all ranks (V·B·world), both ordered rank, view, image."""
    z = z if z.dtype == torch.float64 else z.float()
    anchors = F.normalize(z, dim=-1).flatten(0, 1)
    return anchors, distributed.gather(anchors)


def pairs(views: int, batch: int, device: torch.device) -> tuple[Bool[Tensor, "A K"], Bool[Tensor, "A K"]]:
    """Masks over (anchor, row of any rank): the anchor itself, and the other views of its image."""
    own = views * batch
    row = torch.arange(own * distributed.world_size(), device=device)
    image = row // own * batch + row % batch  # rows are ordered rank, view, image
    mine = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    itself = row[mine, None] == row
    return itself, (image[mine, None] == image) & ~itself
