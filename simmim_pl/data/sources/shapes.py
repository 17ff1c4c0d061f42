"""Procedural images with labels and masks: ten classes that differ in shape only. Seeded, no download."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, Seed, ranged

Plane = Float[Tensor, "N P"]
CHUNK = 1024  # images rendered at once, to bound memory


@dataclass(frozen=True)
class Scene:
    """All random parameters of N images of G × G copies of one outline each (C = G²). Rendering adds no randomness."""

    label: Int64[Tensor, " N"]
    deformation: Float[Tensor, "N 4 2"]  # amplitude and phase of the outline's deformation, by frequency
    angle: Float[Tensor, "N C"]  # radians
    radius: Float[Tensor, "N C"]  # as a fraction of the cell's side
    centre: Float[Tensor, "N C 2"]  # offset from the centre of the cell, as a fraction of its side
    color: Float[Tensor, "N C 3"]  # RGB of each copy
    background: Float[Tensor, "N 3 2 2"]  # RGB of the background's corners
    noise_std: Float[Tensor, "N C"]  # standard deviation of the pixel noise in each cell
    seed: Int64[Tensor, " N"]  # of the pixel noise
    rotation: Int64[Tensor, " N"]  # motion label: an index into ROTATIONS

    def __getitem__(self, index: slice | Tensor) -> Scene:
        return Scene(*(getattr(self, field.name)[index] for field in fields(self)))


# Radians per frame, clockwise. Angles are uniform, so a single frame does not show the rotation.
ROTATIONS = (-0.6, -0.2, 0.2, 0.6)


class Shapes(Source):
    """Images of several copies of one outline, each copy with its own place, size, angle and colour.

    The class is the kind of outline; each image deforms it differently. The regions of an image share nothing but the
    outline, so contrastive learning has to use shape, and the classes measure whether it does.

    Args:
        train: number of training images.
        test: number of test images.
        size: height and width of the images, in pixels.
        copies: copies of the outline per row and per column.
        deform: amplitude of the outline's deformation, as a fraction of its radius.
        noise: largest standard deviation of the pixel noise, in [0, 1]; each cell of an image has its own.
        seed: the same seed gives the same images.
    """

    @ranged
    def __init__(
        self,
        train: PositiveInt = 10_000,
        test: PositiveInt = 2_000,
        size: PositiveInt = 32,
        copies: PositiveInt = 2,
        deform: NonNegativeFloat = 0.08,
        noise: NonNegativeFloat = 0.15,
        seed: Seed = 0,
    ) -> None:
        if min(train, test) < len(OUTLINES) or size < 8 * copies or copies < 1:
            raise InputError(
                f"Shapes needs at least {len(OUTLINES)} images per split and 8 pixels per copy, got train {train}, "
                f"test {test}, size {size}, copies {copies}."
            )
        self.numbers: dict[Split, int] = {"train": train, "test": test}
        self.size, self.copies, self.deform, self.noise, self.seed = size, copies, deform, noise, seed
        self.classes = list(OUTLINES)
        self.mask_classes = ["background", *OUTLINES]

    def load(self, split: Split) -> InMemory:
        """Render one split with its masks: 0 is background, ``label + 1`` is the shape."""
        scene = self.scene(split)
        parts = [render(scene[start : start + CHUNK], self.size) for start in range(0, len(scene.label), CHUNK)]
        images, masks = (torch.cat(part) for part in zip(*parts, strict=True))
        return InMemory(images, scene.label, masks)

    def scene(self, split: Split) -> Scene:
        """Draw the parameters of a split. They depend on the constructor's arguments and the split only."""
        number, copies = self.numbers[split], self.copies**2
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "test"))

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(number, *shape, generator=generator)

        background = uniform(0, 1, 3, 2, 2)
        # Each copy is clearly lighter or darker than the background.
        contrast = uniform(0.35, 0.6, copies, 1) * uniform(-1, 1, copies, 1).sign()
        mean = background.mean((2, 3))[:, None]
        color = mean + contrast + uniform(-0.25, 0.25, copies, 3)
        return Scene(
            label=torch.arange(number) % len(OUTLINES),
            deformation=torch.stack([uniform(-self.deform, self.deform, 4), uniform(0, 2 * math.pi, 4)], dim=-1),
            angle=uniform(0, 2 * math.pi, copies),
            radius=uniform(0.3, 0.48, copies),
            centre=uniform(-0.1, 0.1, copies, 2),
            color=color,
            background=background,
            noise_std=uniform(0, self.noise, copies),
            seed=torch.randint(2**62, (number,), generator=generator),
            rotation=torch.randint(len(ROTATIONS), (number,), generator=generator),
        )


def render(scene: Scene, size: int) -> tuple[UInt8[Tensor, "N 3 S S"], UInt8[Tensor, "N S S"]]:
    """Render N images of S × S pixels and their masks. In each cell only its own copy is drawn.

    Args:
        scene: parameters of the images.
        size: S, in pixels.
    """
    side = math.isqrt(scene.angle.shape[1])
    position = (torch.arange(size) + 0.5) / size * side  # in cells
    cell, offset = position.long(), position.frac() - 0.5
    copy = (cell[:, None] * side + cell).flatten()  # [P]: the copy of each pixel's cell
    y, x = (part.flatten() for part in torch.meshgrid(offset, offset, indexing="ij"))

    x, y = x - scene.centre[:, copy, 0], y - scene.centre[:, copy, 1]
    rho = (x.square() + y.square()).sqrt() / scene.radius[:, copy]
    theta = torch.atan2(y, x) - scene.angle[:, copy]
    frequency = torch.arange(2, 6)[:, None]
    wave = scene.deformation[:, :, 0, None] * torch.cos(frequency * theta[:, None] + scene.deformation[:, :, 1, None])
    rho = rho / (1 + wave.sum(1))

    inside = torch.empty_like(rho)
    for label, outline in enumerate(OUTLINES.values()):
        rows = scene.label == label
        inside[rows] = outline(rho[rows] * theta[rows].cos(), rho[rows] * theta[rows].sin())
    # The distance field falls by about one per radius, so this is the fraction of the pixel that the shape covers.
    cover = (inside * scene.radius[:, copy] * size / side + 0.5).clamp(0, 1)

    background = torch.nn.functional.interpolate(
        scene.background, size=(size, size), mode="bilinear", align_corners=True
    )
    normal = [torch.randn(size**2, generator=torch.Generator().manual_seed(seed)) for seed in scene.seed.tolist()]
    noise = scene.noise_std[:, copy] * torch.stack(normal)
    painted = background.flatten(2).lerp(scene.color[:, copy].transpose(1, 2).clamp(0, 1), cover[:, None])
    images = ((painted + noise[:, None]).clamp(0, 1) * 255).round().to(torch.uint8).unflatten(2, (size, size))
    mask = ((cover > 0.5) * (scene.label[:, None] + 1)).to(torch.uint8)
    return images, mask.unflatten(1, (size, size))


def polygon(corners: int, apothem: float) -> Callable[[Plane, Plane], Plane]:
    """Field of a regular polygon: its apothem minus the largest distance along the normals of its sides."""
    directions = [2 * math.pi * side / corners for side in range(corners)]

    def inside(x: Plane, y: Plane) -> Plane:
        return apothem - torch.stack([x * math.cos(a) + y * math.sin(a) for a in directions]).amax(0)

    return inside


def box(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """Field of a rectangle around the origin, of half-sides ``width`` and ``height``."""
    return torch.minimum(width - x.abs(), height - y.abs())


def star(x: Plane, y: Plane) -> Plane:
    """Field of a five-pointed star, whose radius is piecewise linear in angle."""
    turn = (torch.atan2(y, x) * 5 / (2 * math.pi)).remainder(1)
    return (0.4 + 0.7 * (2 * turn - 1).abs() - torch.hypot(x, y)) * 0.6


# Fields of the outlines, as functions of position: positive inside, zero on the outline, falling by about one per
# radius; the radius is about one.
OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: 0.85 - torch.hypot(x, y),
    "ring": lambda x, y: 0.2 - (torch.hypot(x, y) - 0.75).abs(),
    "triangle": polygon(3, 0.55),
    "square": polygon(4, 0.75),
    "cross": lambda x, y: torch.maximum(box(x, y, 0.25, 1.0), box(x, y, 1.0, 0.25)),
    "bar": lambda x, y: box(x, y, 1.0, 0.25),
    "half": lambda x, y: torch.minimum(1.0 - torch.hypot(x, y + 0.4), y + 0.4),
    "crescent": lambda x, y: torch.minimum(0.95 - torch.hypot(x, y), torch.hypot(x - 0.45, y) - 0.7),
    "star": star,
    "corner": lambda x, y: torch.maximum(box(x, y + 0.6, 0.85, 0.25), box(x + 0.6, y, 0.25, 0.85)),
}
