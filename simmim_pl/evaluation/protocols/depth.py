"""Accuracy against depth: a linear probe on every layer of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch import LightningDataModule

from simmim_pl.encoders.layer import Layers
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.protocols.linear import probe, strongest_first
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.ranges import PositiveFloat, ranged


class Depth(Protocol):
    """Linear-probe accuracy on test of each of the encoder's layers, the earliest first.

    The layers are those that :meth:`simmim_pl.contracts.Encoder.layers` names, pooled as
    :class:`simmim_pl.encoders.layer.Layer` says, so a result is that of :class:`simmim_pl.evaluation.LinearProbe` with
    ``--model.layer``. Images are encoded once for all layers, and of each layer its pooled vector is kept: in memory
    and in the cache an image takes 4 bytes times the sum of their widths. Where accuracy falls towards the end, the last
    layers serve the pretext task alone.

    Args:
        l2: candidate penalties, chosen on validation for each layer by itself.
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
        splits = [replace(context, encoder=encoder, known={}).vectors(name) for name in ("train", "validation", "test")]
        columns = [(features.split(list(encoder.widths.values()), 1), labels) for features, labels in splits]
        results = []
        for place, name in enumerate(context.watched(encoder.widths, "linear probes", len(encoder.widths))):
            train, validation, test = ((parts[place].contiguous(), labels) for parts, labels in columns)
            found = probe(train, validation, test, classes, self.l2)
            # Without confusion: a matrix a layer would be most of the report.
            results.append(replace(found, confusion=None, variant=name, depth=place + 1))
        return results
