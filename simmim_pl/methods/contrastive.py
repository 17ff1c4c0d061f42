"""START HERE: encoder → projection head → loss on the projections of an image's views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import Batch, Encoder
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses.loss import Loss
from simmim_pl.losses.nt_xent import contrastive_accuracy
from simmim_pl.methods.gradient_cache import chunked_forward
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.required_views import require_view_maker, views_of
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import PositiveInt, ranged


class Contrastive(Method):
    """Joint embedding: one network embeds all views; the loss makes views of an image agree, and images differ.

    With NT-Xent it is SimCLR (Chen et al. 2020, arXiv 2002.05709), the source article's "simulated mutual-information
    maximisation", whose claims ``docs/method.md`` maps; with other losses VICReg, Barlow Twins or LeJEPA. With
    ``--data.local_views`` smaller regions join the views of their image in the same loss; they are encoded at their own
    size, so BatchNorm sees them by themselves.

    Args:
        encoder: image → features; the part that is kept.
        head: projection head, built on the encoder's width.
        loss: projections ``[V, B, P]`` → scalar, such as :class:`simmim_pl.losses.NTXent`.
        gradient_cache: number of chunks in which a device encodes its batch: it needs the memory of one chunk and a
            third more time, see :func:`simmim_pl.methods.gradient_cache.chunked_forward`. 1 encodes it whole.
        kwargs: see :class:`simmim_pl.methods.method.Method`.
    """

    compiles = ("encoder", "head")
    compares_images = True

    @ranged
    def __init__(
        self,
        encoder: Encoder,
        head: Callable[[int], ProjectionHead],
        loss: Loss,
        gradient_cache: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, **kwargs)
        self.head = head(encoder.embed_dim)
        self.loss = loss
        self.chunks, self.saves_memory = gradient_cache, gradient_cache > 1

    def on_fit_start(self) -> None:
        require_view_maker(self, "ContrastiveViews")

    def project(self, views: Float[Tensor, "V B C S S"]) -> tuple[Float[Tensor, "V B D"], Float[Tensor, "V B P"]]:
        """Features and projections of views: one forward, so BatchNorm sees all views."""
        features = self.encoder(views.flatten(0, 1))  # pooled [V·B, D]
        z = self.head(features.pooled)
        return features.pooled.unflatten(0, views.shape[:2]), z.unflatten(0, views.shape[:2])

    def embed(self, views: Float[Tensor, "V B C S S"]) -> tuple[Tensor, ...]:
        """:meth:`project`, in chunks if ``gradient_cache`` is above 1."""
        return chunked_forward(self.project, views, self.chunks, self) if self.chunks > 1 else self.project(views)

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        views = views_of(batch, 2, "ContrastiveViews")
        pooled, z = self.embed(views)  # [V, B, C, S, S]: V random regions of every image, recoloured
        if "local" in batch:  # smaller regions at their own size: they too have to agree with all views of their image
            z = torch.cat([z, self.embed(batch["local"])[1]])
        loss = self.loss(z, self.generator("loss")) if self.loss.draws else self.loss(z)
        self.log("train/contrastive_accuracy", partial(contrastive_accuracy, z.detach()), prog_bar=True)
        chance = self.loss.at_chance(len(z), z.shape[1] * distributed.world_size(), z.shape[2])
        if chance is not None:
            self.log("train/loss_at_chance", chance)
        return self.finish(loss, pooled.flatten(0, 1), batch)
