"""The views of contrastive pretraining: crop, flip, colour jitter, grayscale, blur, solarising."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError, Views
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Range, Share, ranged
from simmim_pl.runtime.seeding import uniform
from simmim_pl.views.blur import gaussian_blur, kernel_size
from simmim_pl.views.colour import Jitter, grayscale, jitter, sample_jitter, solarize
from simmim_pl.views.crop import crop_resize, sample_crop

BLOCK = 1_200_000  # numbers of images and views made at a time: more need fresh memory, fewer need more calls of torch


class ContrastiveViews(Views):
    """Independent random views of each image, as SimCLR draws them (Chen et al. 2020, appendix A).

    The defaults are the paper's for CIFAR-10 (appendix B.9: no blur, jitter of half strength). The formulas
    are torchvision's, as in the usual PyTorch reproductions; the paper's own code shifts brightness by adding
    and contrasts each channel with its own mean.

    Args:
        size: side of a view, in pixels.
        views: how many views of each image.
        scale: least and greatest area of a crop, as a fraction of the image's.
        ratio: least and greatest width / height of a crop.
        flip: probability that a view is mirrored left to right.
        jitter: probability that the colours of a view are jittered.
        brightness: factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: factor is uniform in [max(0, 1 - contrast), 1 + contrast].
        saturation: factor is uniform in [max(0, 1 - saturation), 1 + saturation].
        hue: shift is uniform in [-hue, hue], a fraction of the circle, at most 0.5.
        grayscale: probability that a view loses its colour.
        blur: probability that a view is blurred; 0.5 in SimCLR at 224 pixels.
        sigma: least and greatest width of the blur, in pixels; it reaches over a tenth of the view, see
            :func:`simmim_pl.views.blur.kernel_size`.
        solarize: probability that what is brighter than half is inverted (Grill et al. 2020, arXiv 2006.07733).

    Raises:
        InputError: an argument is out of its range.
    """

    @ranged
    def __init__(
        self,
        size: PositiveInt = 32,
        views: Annotated[int, Range("[2, inf)")] = 2,
        scale: tuple[Share, Share] = (0.08, 1.0),
        ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3),
        flip: Probability = 0.5,
        jitter: Probability = 0.8,
        brightness: NonNegativeFloat = 0.4,
        contrast: NonNegativeFloat = 0.4,
        saturation: NonNegativeFloat = 0.4,
        hue: Annotated[float, Range("[0, 0.5]")] = 0.1,
        grayscale: Probability = 0.2,
        blur: Probability = 0.0,
        sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0),
        solarize: Probability = 0.0,
    ) -> None:
        super().__init__()
        check_order(scale=scale, ratio=ratio, sigma=sigma)
        if blur and kernel_size(size) == 1:
            raise InputError(
                f"A view of {size} pixels is too small to be blurred: set blur to 0, or size to 20 or more."
            )
        self.size, self.views, self.scale, self.ratio = size, views, scale, ratio
        self.flip, self.jitter, self.grayscale = flip, jitter, grayscale
        self.strength = (brightness, contrast, saturation, hue)
        self.blur, self.sigma, self.solarize = blur, sigma, solarize

    def forward(self, image: UInt8[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "V B 3 S S"]:
        """Draw the views of a batch; the generator may live on any device."""
        plans = [self.plan(image, generator) for _ in range(self.views)]
        result = torch.empty(self.views, len(image), 3, self.size, self.size, device=image.device)
        for rows in blocks(image, self.size):
            unit = image[rows] / 255
            for view, plan in zip(result, plans, strict=True):
                view[rows] = self.draw(unit, plan[rows])
        return result

    def plan(self, image: UInt8[Tensor, "B 3 H W"], generator: torch.Generator) -> Plan:
        """Draw what to do for one view of each image. What never happens draws nothing."""
        batch, device = len(image), image.device
        box = sample_crop(batch, image.shape[-2], image.shape[-1], self.scale, self.ratio, generator, device)
        colours = sample_jitter(batch, self.jitter, self.strength, generator, device)
        flip, grey = uniform(generator, 2, batch, along=1).to(device)
        never = grey.new_ones(batch)
        blur, place = uniform(generator, 2, batch, along=1).to(device) if self.blur else (never, never)
        solarised = uniform(generator, batch, along=0).to(device) if self.solarize else never
        sigma = torch.where(blur < self.blur, self.sigma[0] + (self.sigma[1] - self.sigma[0]) * place, 0.0)
        return Plan(box, flip < self.flip, colours, grey < self.grayscale, sigma, solarised < self.solarize)

    def draw(self, image: Float[Tensor, "B 3 H W"], plan: Plan) -> Float[Tensor, "B 3 S S"]:
        """One view of each image in [0, 1]."""
        view = jitter(crop_resize(image, plan.box, plan.flip, self.size), plan.jitter)
        view = grayscale(view, plan.grey)
        if self.blur:
            blurred = plan.sigma.nonzero().squeeze(1)
            view[blurred] = gaussian_blur(view.index_select(0, blurred), plan.sigma[blurred], kernel_size(self.size))
        return solarize(view, plan.solarize) if self.solarize else view


@dataclass(frozen=True)
class Plan:
    """What to do to each image for one view."""

    box: Int64[Tensor, "B 4"]
    flip: Bool[Tensor, " B"]
    jitter: Jitter
    grey: Bool[Tensor, " B"]
    sigma: Float[Tensor, " B"]  # of the blur, 0 for none
    solarize: Bool[Tensor, " B"]

    def __getitem__(self, rows: slice) -> Plan:
        """Of some of the images."""
        return Plan(*(getattr(self, field.name)[rows] for field in fields(self)))


def blocks(image: UInt8[Tensor, "B 3 H W"], size: int) -> list[slice]:
    """Even parts of a batch that are made one after the other: on a CPU as large as is fast, see ``BLOCK``."""
    numbers = image.numel() + len(image) * 3 * size**2
    parts = math.ceil(numbers / BLOCK) if image.device.type == "cpu" else 1
    step = math.ceil(len(image) / parts)
    return [slice(start, start + step) for start in range(0, len(image), step)]


def check_order(**limits: tuple[float, float]) -> None:
    """Refuse a least that is above the greatest."""
    for name, (least, greatest) in limits.items():
        if least > greatest:
            raise InputError(f"{name} has to be a least and a greatest, and is [{least}, {greatest}].")
