"""Procedural clips: the scenes of Shapes turning, told apart by direction and speed, which no single frame shows."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.digest import digest
from simmim_pl.data.source import ImageDataset, Source, Split
from simmim_pl.data.sources.shapes import SPINS, Scene, Shapes, render
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, Seed, ranged


class ShapesClips(Source):
    """Clips in which every copy of an outline turns by the same angle a frame; the class is that turn.

    The turn is drawn independently of the outline, and angles are uniform, so neither the outline nor any one
    frame tells it. The first frames are the images of ``Shapes`` with the same arguments.

    Args:
        train: number of training clips.
        test: number of test clips.
        size: side of the frames in pixels.
        frames: frames a clip, 2 or more.
        copies: copies of the outline a row and a column.
        deform: amplitude of the outline's own deformation, as a share of its radius: all that shows how a disc turns.
        noise: largest standard deviation of the pixel noise, in [0, 1]; the same noise lies over all frames of a clip.
        seed: the same seed gives the same clips.
    """

    @ranged
    def __init__(
        self,
        train: PositiveInt = 4_000,
        test: PositiveInt = 1_000,
        size: PositiveInt = 32,
        frames: PositiveInt = 8,
        copies: PositiveInt = 2,
        deform: NonNegativeFloat = 0.08,
        noise: NonNegativeFloat = 0.15,
        seed: Seed = 0,
    ) -> None:
        if frames < 2:
            raise InputError(f"ShapesClips' frames is {frames}: a turn shows in 2 frames or more.")
        self.shapes = Shapes(train, test, size, copies, deform, noise, seed)
        self.frames = frames
        self.classes = ["left fast", "left slow", "right slow", "right fast"]  # as SPINS; right is clockwise

    def load(self, split: Split) -> TurningShapes:
        """Draw one split's parameters; nothing is rendered yet."""
        return TurningShapes(self.shapes.scene(split), self.shapes.size, self.frames)


class TurningShapes(ImageDataset):
    """Clips ``uint8 [T, 3, S, S]`` rendered when they are read, in worker processes.

    A frozen evaluation reads every clip once, or not at all when it kept the features; in memory the clips would take
    T times what their images do.
    """

    def __init__(self, scene: Scene, size: int, frames: int) -> None:
        super().__init__(scene.spin, workers=True, clips=True)
        self.scene, self.size, self.frames = scene, size, frames

    def __len__(self) -> int:
        return len(self.scene.label)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B T 3 S S"]:
        scene = self.scene[index]
        turn = torch.tensor(SPINS)[scene.spin][:, None]
        moments = [replace(scene, angle=scene.angle + frame * turn) for frame in range(self.frames)]
        return torch.stack([render(moment, self.size)[0] for moment in moments], dim=1)

    def digest(self) -> str:
        """Of the parameters, so that nothing has to be rendered for it."""
        return digest("turning", self.size, self.frames, *(getattr(self.scene, field.name) for field in fields(Scene)))
