"""The views of a linear probe and of fine-tuning: crop and flip, no colours."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt
from torch import Tensor

from simmim_pl.contracts import Views
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, Share, ranged
from simmim_pl.views.fused import fused_views, is_fusable
from simmim_pl.views.limits import require_ordered
from simmim_pl.views.plan import Crop, draw_plan, make_view


class CropFlip(Views):
    """One random region of each image, flipped or not: ``[1, B, C, S, S]``.

    torchvision's RandomResizedCrop and RandomHorizontalFlip, with separate parameters for every image.

    Args:
        size: side of a view, in pixels; by default the image's own height.
        scale: least and greatest area of a crop, as a fraction of the image's.
        ratio: least and greatest width / height of a crop.
        flip: probability that a view is mirrored left to right.

    Raises:
        InputError: an argument is out of its range.
    """

    views = 1  # of each image

    @ranged
    def __init__(
        self,
        size: PositiveInt | None = None,
        scale: tuple[Share, Share] = (0.4, 1.0),
        ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3),
        flip: Probability = 0.5,
    ) -> None:
        super().__init__()
        require_ordered(scale=scale, ratio=ratio)
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip

    def forward(self, image: UInt[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "1 B C S S"]:
        """Draw one view of each image; the generator may live on any device."""
        crop = Crop(self.size or image.shape[-2], self.scale, self.ratio, self.flip)
        if is_fusable(image):
            return fused_views(image, crop, [[]], generator)
        plan = draw_plan(image, crop, [], generator)
        return make_view(as_float(image), plan, crop.size, [])[None]
