"""The views of contrastive pretraining: a random crop, then a sequence of operations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt
from torch import Tensor

from simmim_pl.contracts import InputError, Views
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Range, Share, ranged
from simmim_pl.views.channels import for_channels
from simmim_pl.views.color_jitter import ColorJitter
from simmim_pl.views.fused import fused_views, is_fusable
from simmim_pl.views.gaussian_blur import GaussianBlur
from simmim_pl.views.grayscale import Grayscale
from simmim_pl.views.limits import require_ordered
from simmim_pl.views.operation import Operation
from simmim_pl.views.plan import Crop, draw_plan, make_view
from simmim_pl.views.solarize import Solarize

BLOCK = 1_200_000  # numbers of images and views per block: with more, memory is not reused; with fewer, calls dominate


class ContrastiveViews(Views):
    """Independent random views of each image, as SimCLR draws them (Chen et al. 2020, appendix A).

    A view is a crop, randomly flipped, to which operations are applied in order. The defaults are the paper's
    for CIFAR-10 (appendix B.9: no blur, jitter of half strength): :class:`ColorJitter`, :class:`Grayscale`, then
    :class:`GaussianBlur` and :class:`Solarize` where asked for. The formulas are torchvision's, as in the usual
    PyTorch reproductions; the paper's own code shifts brightness by adding and contrasts each channel with its own
    mean. Images that are not RGB have no saturation, hue and grayscale: those are left out, with a message, and other
    values than the defaults refused.

    Args:
        size: side of a view, in pixels.
        views: how many views of each image.
        scale: least and greatest area of a crop, as a fraction of the image's.
        ratio: least and greatest width / height of a crop.
        flip: probability that a view is mirrored left to right.
        jitter: probability that the colours of a view are jittered.
        brightness: see :class:`ColorJitter`.
        contrast: see :class:`ColorJitter`.
        saturation: see :class:`ColorJitter`.
        hue: see :class:`ColorJitter`.
        grayscale: probability that a view loses its colour.
        blur: probability that a view is blurred; 0.5 in SimCLR at 224 pixels.
        sigma: see :class:`GaussianBlur`.
        solarize: probability that what is brighter than half is inverted (Grill et al. 2020, arXiv 2006.07733).
        operations: operations on a crop, in order, instead of ``jitter`` to ``solarize``, which must then not be set. A
            list per view gives each view its own operations, as in BYOL.

    Raises:
        InputError: an argument is out of its range, or set together with ``operations``; of :meth:`require_channels`.
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
        operations: list[Operation] | list[list[Operation]] | None = None,
    ) -> None:
        super().__init__()
        require_ordered(scale=scale, ratio=ratio)
        self.size, self.views, self.scale, self.ratio, self.flip = size, views, scale, ratio, flip
        self._listed, self._suited = operations is not None, dict[int, list[list[Operation]]]()  # by number of channels
        colours = (jitter, brightness, contrast, saturation, hue)
        if operations is None:
            operations = simclr(colours, grayscale, blur, sigma, solarize)
        else:
            require_unset(jitter, brightness, contrast, saturation, hue, grayscale, blur, sigma, solarize)
        self.operations = for_each_view(operations, views)
        for operation in chain.from_iterable(self.operations):
            if size < operation.smallest:
                raise InputError(
                    f"A view of {size} pixels is too small for {type(operation).__name__}: set size to "
                    f"{operation.smallest} or more, or leave it out."
                )

    def forward(self, image: UInt[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "V B C S S"]:
        """Draw the views of a batch; the generator may live on any device."""
        crop, channels = Crop(self.size, self.scale, self.ratio, self.flip), image.shape[1]
        if is_fusable(image):
            return fused_views(image, crop, self.operations, generator)
        each_view = self.operations_for(channels)
        plans = [draw_plan(image, crop, operations, generator) for operations in each_view]
        result = torch.empty(self.views, len(image), channels, self.size, self.size, device=image.device)
        for rows in blocks(image, self.size):
            unit = as_float(image[rows])
            for view, plan, operations in zip(result, plans, each_view, strict=True):
                view[rows] = make_view(unit, plan[rows], self.size, operations)
        return result

    def require_channels(self, channels: int) -> None:
        """Raise :class:`InputError` if the images are not RGB, and an operation on colours was asked for."""
        self.operations_for(channels)

    def operations_for(self, channels: int) -> list[list[Operation]]:
        """The operations of every view, for images of so many channels."""
        if channels not in self._suited:
            distinct = {id(each): each for each in self.operations}  # one list may be of all views: one message
            made = {key: for_channels(each, channels, self._listed) for key, each in distinct.items()}
            self._suited[channels] = [made[id(each)] for each in self.operations]
        return self._suited[channels]


def simclr(
    colours: tuple[float, float, float, float, float],
    grayscale: float,
    blur: float,
    sigma: tuple[float, float],
    solarize: float,
) -> list[Operation]:
    """SimCLR's operations in its order, and BYOL's solarising. Blur and solarising of probability 0 are left out."""
    found: list[Operation] = [ColorJitter(*colours), Grayscale(grayscale)]
    blurred = GaussianBlur(blur, sigma)
    return found + ([blurred] if blur else []) + ([Solarize(solarize)] if solarize else [])


def require_unset(*values: Any) -> None:
    """Refuse settings of single operations if ``operations`` is given too."""
    defaults = inspect.signature(ContrastiveViews.__init__).parameters
    names = [*defaults][-1 - len(values) : -1]
    known = {name: value for name, value in zip(names, values, strict=True) if value != defaults[name].default}
    if known:
        raise InputError(f"operations replaces {', '.join(known)}: set it within operations only.")


def for_each_view(operations: Sequence[Any], views: int) -> list[list[Operation]]:
    """The operations of every view: one list for all of them, or a list each."""
    if not operations or not isinstance(operations[0], list):
        return [list(operations)] * views
    if len(operations) != views:
        raise InputError(f"operations has {len(operations)} lists for {views} views: give one list, or one per view.")
    return list(operations)


def blocks(image: UInt[Tensor, "B C H W"], size: int) -> list[slice]:
    """Slices of a batch that are processed one after the other; on a CPU their size is limited by ``BLOCK``."""
    numbers = image.numel() + len(image) * image.shape[1] * size**2
    parts = math.ceil(numbers / BLOCK) if image.device.type == "cpu" else 1
    step = math.ceil(len(image) / parts)
    return [slice(start, start + step) for start in range(0, len(image), step)]
