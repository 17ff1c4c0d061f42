"""Accuracy by depth: a linear probe on every layer of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch import LightningDataModule

from simmim_pl.encoders.layer import Layers
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.protocols.linear import probe, strongest_first
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import PositiveFloat, ranged


class Depth(Protocol):
    """Linear-probe accuracy on test of each of the encoder's layers, the earliest first.

    The layers are those that :meth:`simmim_pl.contracts.Encoder.layers` names, pooled as
    :class:`simmim_pl.encoders.layer.Layer` says, so a result is that of :class:`simmim_pl.evaluation.LinearProbe` with
    ``--model.layer``. Images are encoded once for all layers, and only pooled vectors are kept: in memory and in the
    cache an image takes 4 bytes times the sum of the layers' widths. Where accuracy falls towards the end, the last
    layers serve the pretext task alone.

    Args:
        l2: candidate penalties, chosen on validation for each layer separately.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    supports_raw_pixels = supports_layer = False

    @ranged
    def __init__(
        self,
        l2: Sequence[PositiveFloat] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.l2 = strongest_first(l2)

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        classes = context.classes()
        context.require_validation()
        encoder = Layers(context.encoder).to(context.device).eval()
        every = replace(context, encoder=encoder, known={})
        splits = [every.vectors(split) for split in ("train", "validation", "test")]
        with torch.no_grad():
            widths = [vector.shape[1] for vector in encoder.each(as_float(context.blank()))]
        layers = zip(*(features.split(widths, 1) for features, _ in splits), strict=True)
        results = []
        for depth, features in enumerate(context.watched(layers, "linear probes", len(widths)), start=1):
            train, validation, test = (
                (part.contiguous(), labels) for part, (_, labels) in zip(features, splits, strict=True)
            )
            found = probe(train, validation, test, classes, self.l2)
            # Without confusion: a matrix a layer would be most of the report.
            results.append(replace(found, confusion=None, variant=encoder.names[depth - 1], depth=depth))
        return results
