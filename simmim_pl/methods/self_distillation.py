"""Base of BYOL and MoCo v3: a network predicts the output of its own moving average for another view."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import Batch, Encoder, InputError
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses.nt_xent import contrastive_accuracy
from simmim_pl.methods.gradient_cache import chunked_forward
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.required_views import require_view_maker, views_of
from simmim_pl.methods.teacher import Teacher, cosine_momentum
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import PositiveInt, Probability, ranged

Projected = tuple[Float[Tensor, "V B D"], Float[Tensor, "V B P"]]


class SelfDistillation(Method):
    """Base of methods with an online network (encoder, head, predictor) and a teacher (encoder, head).

    Subclasses define :meth:`compare`. The teacher sees the views; the online network sees them too, and with
    ``--data.local_views`` smaller regions, at their own size. Every view of the online network predicts the teacher's
    projections of all other views of its image. As in :class:`simmim_pl.methods.Contrastive`, BatchNorm sees all views
    of a step together, where the papers' code normalises each view separately.

    Args:
        encoder: image → features; the part that is kept.
        head: projection head, built on the encoder's width.
        predictor: MLP from a projection to a projection, for the online network only; ``output_dim`` as of the head.
        momentum: m, the teacher's momentum at the first optimizer step. It rises to 1 by a cosine, see
            :func:`simmim_pl.methods.teacher.cosine_momentum`.
        gradient_cache: number of chunks in which a device encodes its batch, see
            :func:`simmim_pl.methods.gradient_cache.chunked_forward`. 1 encodes it whole.
        kwargs: see :class:`simmim_pl.methods.method.Method`.

    Raises:
        InputError: the predictor's output is of another length than the head's.
    """

    compiles = ("encoder", "head", "predictor", "teacher.encoder", "teacher.head")

    @ranged
    def __init__(
        self,
        encoder: Encoder,
        head: Callable[[int], ProjectionHead],
        predictor: Callable[[int], ProjectionHead],
        momentum: Probability = 0.996,
        gradient_cache: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, **kwargs)
        self.head = head(encoder.embed_dim)
        self.predictor = predictor(self.head.output_dim)
        if self.predictor.output_dim != self.head.output_dim:
            raise InputError(
                f"The predictor's output_dim is {self.predictor.output_dim} and the head's is {self.head.output_dim}, "
                "but it predicts the head's output: set both to the same number."
            )
        self.teacher = Teacher(encoder, self.head)
        self.momentum = momentum
        self.chunks, self.saves_memory = gradient_cache, gradient_cache > 1

    @abstractmethod
    def compare(self, q: Float[Tensor, "S B P"], k: Float[Tensor, "B P"]) -> Float[Tensor, ""]:
        """The loss of predictions from some views, given the teacher's projections of another view."""

    def at_chance(self, images: int) -> float | None:
        """The loss when the projections of all images are the same; None if that is not a high loss.

        - ``images``: in the batch of all ranks.
        """
        return None

    def on_fit_start(self) -> None:
        require_view_maker(self, "ContrastiveViews")

    def project(self, views: Float[Tensor, "V B C S S"]) -> Projected:
        """Features and projections of views by the online network, before the predictor."""
        features = self.encoder(views.flatten(0, 1))
        z = self.head(features.pooled)
        return features.pooled.unflatten(0, views.shape[:2]), z.unflatten(0, views.shape[:2])

    def embed(self, project: Callable[[Tensor], Projected], views: Float[Tensor, "V B C S S"]) -> tuple[Tensor, ...]:
        """The outputs of ``project``, in chunks if ``gradient_cache`` is above 1."""
        return chunked_forward(project, views, self.chunks, self) if self.chunks > 1 else project(views)

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        views = views_of(batch, 2, "ContrastiveViews")
        with torch.no_grad():
            _, targets = self.embed(self.teacher.project, views)
        pooled, z = self.embed(self.project, views)
        if "local" in batch:
            z = torch.cat([z, self.embed(self.project, batch["local"])[1]])
        q = self.predictor(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        losses = [self.compare(torch.cat([q[:view], q[view + 1 :]]), k) for view, k in enumerate(targets)]
        self.log("train/contrastive_accuracy", partial(contrastive_accuracy, z.detach()), prog_bar=True)
        chance = self.at_chance(z.shape[1] * distributed.world_size())
        if chance is not None:
            self.log("train/loss_at_chance", chance)
        return self.finish(torch.stack(losses).mean(), pooled.flatten(0, 1), batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step, then the teacher's: Lightning calls this once for all batches that are accumulated."""
        super().optimizer_step(*args, **kwargs)
        steps = int(self.trainer.estimated_stepping_batches)
        momentum = cosine_momentum(self.trainer.global_step, steps, self.momentum)
        self.teacher.update(self.encoder, self.head, momentum)
