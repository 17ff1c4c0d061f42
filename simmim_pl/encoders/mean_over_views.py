"""An encoder whose features are averaged over views of each image."""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders.layer import statistics


class MeanOverViews(Encoder):
    """The mean of an encoder's pooled features over the image, squares cut out of it on a grid, and mirror images.

    The views are the same for every image, so the features are a function of the image alone. Crops are enlarged to the
    image's size, bilinearly. The feature map is that of the image.

    Args:
        encoder: encodes each view.
        crops: squares along each side of the grid, which covers the image; 0 for none.
        share: side of a square, as a share of the image's.
        flip: also encode the mirror image of each view.
    """

    def __init__(self, encoder: Encoder, crops: int = 3, share: float = 0.75, flip: bool = True) -> None:
        super().__init__(encoder.embed_dim, *statistics(encoder), stride=encoder.stride)
        self.encoder, self.crops, self.share, self.flip = encoder, crops, share, flip

    @property
    def number(self) -> int:
        """Number of views of an image."""
        return (1 + self.crops**2) * (1 + self.flip)

    def views(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B C H W"]]:
        """The image, its crops row by row, then the mirror image of each."""
        height, width = image.shape[2:]
        rows, columns = max(1, round(self.share * height)), max(1, round(self.share * width))
        views = [image]
        for top, left in product(starts(height - rows, self.crops), starts(width - columns, self.crops)):
            crop = image[:, :, top : top + rows, left : left + columns]
            views.append(F.interpolate(crop, (height, width), mode="bilinear", align_corners=False))
        return views + [view.flip(3) for view in views] * self.flip

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        first: Features
        first, *others = (self.encoder(view) for view in self.views(image))
        pooled = torch.stack([features.pooled for features in (first, *others)]).mean(0)
        return Features(pooled, first.feature_map)


def starts(room: int, number: int) -> list[int]:
    """Evenly spaced positions from 0 to ``room``; a single one is in the middle.

    >>> starts(8, 3), starts(8, 1), starts(8, 0)
    ([0, 4, 8], [4], [])
    """
    return [round(room / 2)] if number == 1 else [round(place * room / (number - 1)) for place in range(number)]
