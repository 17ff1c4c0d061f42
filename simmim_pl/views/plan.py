"""What is drawn for one view of each image, before anything is done to a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from simmim_pl.runtime.seeding import uniform
from simmim_pl.views.crop import crop_resize, sample_crop
from simmim_pl.views.operation import Operation


@dataclass(frozen=True)
class Crop:
    """Settings of random resized crops.

    Attributes:
        size: side of a view, in pixels.
        scale: least and greatest area of a box, as a fraction of the image's.
        ratio: least and greatest width / height of a box.
        flip: probability that a view is mirrored left to right.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float


@dataclass(frozen=True)
class Plan:
    """What to do to each image for one view: where it is cut, whether it is mirrored, and what the operations drew."""

    box: Int64[Tensor, "B 4"]
    flip: Bool[Tensor, " B"]
    drawn: list[Any]

    def __getitem__(self, rows: slice) -> Plan:
        """Of some of the images."""
        return Plan(self.box[rows], self.flip[rows], [parameters[rows] for parameters in self.drawn])


def draw_plan(image: Tensor, crop: Crop, operations: Sequence[Operation], generator: torch.Generator) -> Plan:
    """Draw what to do for one view of each of the images ``[B, C, H, W]``, on their device."""
    (batch, _, height, width), device = image.shape, image.device
    box = sample_crop(batch, height, width, crop.scale, crop.ratio, generator, device)
    drawn = [operation.sample(batch, generator, device) for operation in operations[:1]]
    # Drawn here, not with the crop, so that a seed gives the same numbers as before operations were configurable.
    flip = uniform(generator, batch, along=0).to(device) < crop.flip
    drawn += [operation.sample(batch, generator, device) for operation in operations[1:]]
    return Plan(box, flip, drawn)


def make_view(
    image: Float[Tensor, "B C H W"], plan: Plan, size: int, operations: Sequence[Operation]
) -> Float[Tensor, "B C S S"]:
    """One view of each image in [0, 1], of ``size`` = S pixels a side."""
    view = crop_resize(image, plan.box, plan.flip, size)
    for operation, parameters in zip(operations, plan.drawn, strict=True):
        view = operation.apply(view, parameters)
    return view
