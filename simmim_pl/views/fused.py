"""Views by the kernels of ``gpu/``: two launches per batch if all operations have kernels, else more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, UInt, UInt8
from torch import Tensor

from simmim_pl.gpu.support import runs_kernels
from simmim_pl.runtime.constants import constant
from simmim_pl.runtime.seeding import rank_of
from simmim_pl.views.color_jitter import IDLE, ColorJitter, Jitter, limits
from simmim_pl.views.crop import ATTEMPTS, central_crop
from simmim_pl.views.gaussian_blur import GaussianBlur, kernel_size
from simmim_pl.views.grayscale import LUMA, Grayscale
from simmim_pl.views.operation import Operation
from simmim_pl.views.plan import Crop, Plan, draw_plan
from simmim_pl.views.solarize import Solarize

NEVER: tuple[Any, ...] = (ColorJitter(0.0), Grayscale(0.0), GaussianBlur(0.0), Solarize(0.0))
KNOWN = [type(operation) for operation in NEVER]  # operations of one launch, in this order

NUMBERS: dict[Any, int] = {"box": 4 * ATTEMPTS, "flip": 1, ColorJitter: 9, Grayscale: 1, GaussianBlur: 2, Solarize: 1}


def is_fusable(image: UInt[Tensor, "B C H W"]) -> bool:
    """Whether the kernels make views of these images: of 8-bit RGB, on a GPU that runs them."""
    return image.dtype == torch.uint8 and image.shape[1] == len(LUMA) and runs_kernels(image.device)


def fused_views(
    image: UInt8[Tensor, "B 3 H W"], crop: Crop, operations: Sequence[Sequence[Operation]], generator: torch.Generator
) -> Float[Tensor, "V B 3 S S"]:
    """A view of each image for each list of operations, on a GPU that runs kernels.

    If one launch can do all operations of each view, another launch draws their parameters for all views, from one
    tensor of random numbers: the same that the operations would draw one after the other from a CPU generator.
    Otherwise the operations draw their own parameters.
    """
    from simmim_pl.gpu.parameters import draw_parameters
    from simmim_pl.gpu.views import make_views

    parts = [split(each) for each in operations]
    reach = max(blur_kernel(first, crop.size) for first, *_ in parts)
    if all(len(each) == 1 for each in parts):
        begins, count = numbering([first for (first,) in parts])
        rank, ranks = rank_of(generator)
        numbers = torch.rand([count * len(image) * ranks], generator=generator, device=generator.device)
        asked = tuple(settings(image, crop, first) + each for (first,), each in zip(parts, begins, strict=True))
        parameters = draw_parameters(numbers.to(image.device), asked, len(image), rank, ranks)
        return make_views(image, parameters, crop.size, reach)
    plans = [draw_plan(image, crop, each, generator) for each in operations]
    parameters = torch.stack([rows(plan, first, plan.drawn) for plan, (first, *_) in zip(plans, parts, strict=True)])
    views = make_views(image, parameters, crop.size, reach)
    for view, plan, (first, *rest) in zip(views, plans, parts, strict=True):
        drawn = iter(plan.drawn[len(first) :])
        for part in rest:
            change(view, plan, part, [*islice(drawn, len(part))])
    return views


def change(view: Float[Tensor, "B 3 S S"], plan: Plan, part: Sequence[Operation], drawn: Sequence[Any]) -> None:
    """Apply a later part than the first to a view, in place."""
    from simmim_pl.gpu.views import change_views

    if position(part[0]) < len(KNOWN):
        change_views(view, rows(plan, part, drawn), blur_kernel(part, view.shape[-1]))
    else:
        view.copy_(part[0].apply(view, drawn[0]))


def split(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Parts of one launch each, the first with the crop; an operation without a kernel is a separate part.

    >>> [[type(each).__name__ for each in part] for part in split([Grayscale(), Solarize(), ColorJitter()])]
    [['Grayscale', 'Solarize'], ['ColorJitter']]
    """
    parts: list[list[Operation]] = [[]]
    for operation in operations:
        before = [position(each) for each in parts[-1][-1:]]
        if position(operation) < len(KNOWN) and before < [position(operation)]:
            parts[-1].append(operation)
        else:
            parts.append([operation])
    return parts


def position(operation: Operation) -> int:
    """Position of an operation in ``KNOWN``, else its length; a subclass of a known operation is not known."""
    return KNOWN.index(type(operation)) if type(operation) in KNOWN else len(KNOWN)


def blur_kernel(part: Sequence[Operation], size: int) -> int:
    """Pixels that a blur within this part reaches over."""
    return kernel_size(size) if any(type(operation) is GaussianBlur for operation in part) else 1


def numbering(parts: Sequence[Sequence[Operation]]) -> tuple[list[tuple[int, ...]], int]:
    """Offsets of each view's random numbers, in the order of ``draw_plan``, and their total count per image.

    >>> numbering([[Grayscale()], []])
    ([(0, 41, 0, 40, 0, 0), (42, 82, 0, 0, 0, 0)], 83)
    """
    begins, count = [], 0
    for part in parts:
        begin = dict.fromkeys(NUMBERS, 0)
        for kind in ("box", *map(type, part[:1]), "flip", *map(type, part[1:])):
            begin[kind] = count
            count += NUMBERS[kind]
        begins.append(tuple(begin.values()))
    return begins, count


def settings(image: Tensor, crop: Crop, part: Sequence[Operation]) -> tuple[float, ...]:
    """Settings of a view in the layout of ``SETTINGS`` of :mod:`simmim_pl.gpu.parameters`."""
    found = {type(operation): operation for operation in part}
    jitter, grey, blur, solarize = (found.get(type(never), never) for never in NEVER)
    height, width = image.shape[-2:]
    (least, most), (narrow, wide), (fine, coarse) = crop.scale, crop.ratio, blur.sigma
    low, reach = limits(jitter.strength)
    return (
        *(height, width, height * width, least, most - least, narrow, math.log2(wide / narrow)),
        *(*central_crop(height, width, crop.ratio), crop.flip, jitter.probability, *low, *reach),
        *(grey.probability, blur.probability, fine, coarse - fine, solarize.probability),
    )


def rows(plan: Plan, part: Sequence[Operation], drawn: Sequence[Any]) -> Float[Tensor, "B 16"]:
    """Parameters of a part and of the plan's crop, as rows of ``PARAMETERS`` of :mod:`simmim_pl.gpu.parameters`."""
    found = dict(zip(map(type, part), drawn, strict=False))
    never = torch.zeros_like(plan.flip)
    idle = constant(IDLE, never.device).expand(len(never), -1)
    jitter = found.get(ColorJitter, Jitter(idle, idle.long()))
    grey, sigma, solarize = (found.get(kind, never) for kind in KNOWN[1:])
    return torch.column_stack((plan.box, plan.flip, jitter.factor, jitter.order, grey, sigma, solarize)).float()
