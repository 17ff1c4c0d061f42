"""Procedural clips of rotating Shapes: classes are direction and speed, which a single frame does not show."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.digest import digest
from simmim_pl.data.source import ImageDataset, Source, Split
from simmim_pl.data.sources.shapes import ROTATIONS, Scene, Shapes, render
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, Seed, ranged


class ShapesClips(Source):
    """Clips in which every copy of an outline rotates by the same angle per frame; the class is that rotation.

    The rotation is independent of the outline, and initial angles are uniform. So neither the outline nor a single
    frame shows the class. The first frames are the images of ``Shapes`` with the same arguments.

    Args:
        train: number of training clips.
        test: number of test clips.
        size: height and width of the frames, in pixels.
        frames: frames per clip, 2 or more.
        copies: copies of the outline per row and per column.
        deform: amplitude of the outline's deformation, as a fraction of its radius; only this shows a disc's rotation.
        noise: largest standard deviation of the pixel noise, in [0, 1]; all frames of a clip have the same noise.
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
        """Draw the parameters of one split; frames are rendered later."""
        return TurningShapes(self.shapes.scene(split), self.shapes.size, self.frames)


class TurningShapes(ImageDataset):
    """Clips ``uint8 [T, 3, S, S]`` that workers render batch by batch.

    Holding them in memory would take T times as much as images. A frozen evaluation reads each clip once, or never if
    its features are cached.
    """

    def __init__(self, scene: Scene, size: int, frames: int) -> None:
        super().__init__(scene.rotation, workers=True, clips=True)
        self.scene, self.size, self.frames = scene, size, frames

    def __len__(self) -> int:
        return len(self.scene.label)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B T 3 S S"]:
        scene = self.scene[index]
        turn = torch.tensor(ROTATIONS)[scene.rotation][:, None]
        moments = [replace(scene, angle=scene.angle + frame * turn) for frame in range(self.frames)]
        return torch.stack([render(moment, self.size)[0] for moment in moments], dim=1)

    def digest(self) -> str:
        """Digest of the parameters, so that nothing has to be rendered."""
        return digest("turning", self.size, self.frames, *(getattr(self.scene, field.name) for field in fields(Scene)))
