"""Any protocol on features that are averaged over views of each image, under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch import LightningDataModule

from simmim_pl.contracts import InputError
from simmim_pl.encoders.mean_over_views import MeanOverViews
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.protocols.few_labels import FewLabels
from simmim_pl.evaluation.protocols.knn import KNN
from simmim_pl.evaluation.protocols.linear import LinearProbe
from simmim_pl.evaluation.result import Result
from simmim_pl.runtime.ranges import NonNegativeInt, Share, ranged


class BagOfViews(Protocol):
    """Results of other protocols on features averaged over an image, its crops and their mirror images.

    Training, validation and test images are all encoded so (EMP-SSL, arXiv 2304.03977, averages over 128 random
    crops). It takes as many forward passes as there are views and usually gives a higher accuracy, so its results have
    this protocol's name, and the variant says which protocol and how many views: they are not comparable with results
    of single images.

    Args:
        protocols: which to run: KNN, LinearProbe or FewLabels.
        crops: squares along each side of a grid of crops; 0 for none. See
            :class:`simmim_pl.encoders.mean_over_views.MeanOverViews`.
        share: side of a crop, as a share of the image's.
        flip: also average over mirror images.
        data: the data set to evaluate on; by default the run's ``--data``.

    Raises:
        InputError: there is no protocol, or another one, or one has its own data; there is only one view.
    """

    supports_raw_pixels = False

    @ranged
    def __init__(
        self,
        protocols: Sequence[Protocol],
        crops: NonNegativeInt = 3,
        share: Share = 0.75,
        flip: bool = True,
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        known = (KNN, LinearProbe, FewLabels)
        for protocol in protocols:
            if not isinstance(protocol, known):
                allowed = ", ".join(each.__name__ for each in known)
                raise InputError(f"BagOfViews cannot average for {type(protocol).__name__}: choose from {allowed}.")
            if protocol.data is not None:
                raise InputError(f"BagOfViews runs {type(protocol).__name__} on its own data: set data there, once.")
        if not protocols:
            raise InputError("BagOfViews needs at least one protocol, such as simmim_pl.evaluation.KNN.")
        if not crops and not flip:
            raise InputError("BagOfViews has only one view: set crops to 1 or more, or flip to true.")
        self.protocols, self.crops, self.share, self.flip = protocols, crops, share, flip

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        encoder = MeanOverViews(context.encoder, self.crops, self.share, self.flip).to(context.device).eval()
        bag = replace(context, encoder=encoder, known={})
        results = []
        for protocol in self.protocols:
            for result in protocol.evaluate(bag):
                words = type(protocol).__name__, result.variant, f"{encoder.number} views"
                results.append(replace(result, variant=", ".join(filter(None, words))))
        return results
