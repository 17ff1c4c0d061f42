"""BYOL: predict the teacher's projection of another view, without any negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.methods.self_distillation import SelfDistillation
from simmim_pl.runtime.unit_norm import unit


def prediction_error(q: Float[Tensor, "S B P"], k: Float[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Squared distance of unit vectors, ``2 - 2 · cos(q, k)``, the mean over all predictions of ``k``, in [0, 4].

    Grill et al. 2020 (arXiv 2006.07733), eq. 2. ``k`` gets no gradient.

    >>> k = torch.eye(2)
    >>> [prediction_error(q[None], k).item() for q in (k, 3 * k, -k)]
    [0.0, 0.0, 4.0]
    """
    with torch.autocast(q.device.type, enabled=False):
        return 2 - 2 * (unit(q) * unit(k.detach())).sum(-1).mean()


class BYOL(SelfDistillation):
    """BYOL (Grill et al. 2020, arXiv 2006.07733): the online network predicts its teacher's projection of another view.

    The loss is the mean of :func:`prediction_error` over all ordered pairs of different views, half of the paper's sum
    over its two. It does not measure learning: it is 0 when all images have the same projection. Predictor and teacher
    prevent this collapse, and :class:`simmim_pl.callbacks.CollapseMonitor` warns if they fail.
    """

    def compare(self, q: Float[Tensor, "S B P"], k: Float[Tensor, "B P"]) -> Float[Tensor, ""]:
        return prediction_error(q, k)
