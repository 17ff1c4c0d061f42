"""Clips as folders of frame images: decoded once into memory, or in workers when too large for it."""

from __future__ import annotations

import re
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode_all, stack
from simmim_pl.data.files.digest import digest, stamps
from simmim_pl.data.files.layout import Kind, class_names, images_in, labelled, subfolders
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, ranged

LAYOUT = (
    "sort the clips into train/CLASS/CLIP/ and test/CLASS/CLIP/, at least two classes, "
    "where CLIP is a folder of frame images."
)


class FrameFolder(Source):
    """Clips on disk: ``train/<class>/<clip>/*`` and ``test/<class>/<clip>/*``, each clip a folder of frame images.

    Frames are taken in the order of their names, where 2 comes before 10, evenly over the clip; see :func:`evenly`.
    ``classes`` is known after ``load``. How a file becomes RGB is said in :func:`simmim_pl.data.files.decode.decode`.

    Args:
        root: the folder.
        size: height and width of the frames: the shorter side is resized to it, then the centre is cropped.
        frames: frames taken of each clip.
        memory_gb: a split of at most this many 10⁹ bytes as uint8 is decoded once into memory, in every
            process; a larger one is decoded batch by batch in the DataLoader's workers.
    """

    @ranged
    def __init__(
        self, root: str, size: PositiveInt = 32, frames: PositiveInt = 8, memory_gb: NonNegativeFloat = 4.0
    ) -> None:
        self.root = Path(root).expanduser()
        self.size, self.frames = size, frames
        self.memory_gb = memory_gb

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def prepare(self) -> None:
        """Check both splits; no frame is opened. Raises :class:`InputError` as ``load``."""
        class_names(self.root, CLIPS)
        self.clips("train")
        if (self.root / "test").is_dir():
            self.clips("test")

    def has_test(self) -> bool:
        """Whether there is a folder ``test``."""
        return (self.root / "test").is_dir()

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; a clip has too few frames; a frame
                cannot be read (when the split fits into memory, else when its batch is read).
        """
        self.classes = class_names(self.root, CLIPS)
        clips, labels = self.clips(split)
        if len(clips) * self.frames * 3 * self.size**2 > self.memory_gb * 1e9:
            return FrameFiles(clips, self.size, labels)
        images = decode_all([file for clip in clips for file in clip], self.size)
        return InMemory(images.view(len(clips), self.frames, *images.shape[1:]), labels)

    def clips(self, split: Split) -> tuple[list[list[str]], Int64[Tensor, " N"]]:
        """The files of each clip's frames, and the labels."""
        folders, labels = labelled(self.root, split, CLIPS)
        return [frame_files(Path(folder), self.frames) for folder in folders], labels


class FrameFiles(ImageDataset):
    """A split of clips ``uint8 [T, 3, S, S]`` that are decoded when they are read."""

    def __init__(self, clips: list[list[str]], size: int, labels: Int64[Tensor, " N"]) -> None:
        super().__init__(labels, workers=True, clips=True)
        self.frames = clips
        self.size = size

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B T 3 S S"]:
        files = [file for i in index.tolist() for file in self.frames[i]]
        return stack(files, self.size).view(len(index), -1, 3, self.size, self.size)

    def digest(self) -> str:
        """Of the files' names, sizes and times; no frame is opened."""
        files = [file for clip in self.frames for file in clip]
        return digest("frames", stamps(files), self.size, self.labels)


def frame_files(clip: Path, frames: int) -> list[str]:
    """The files of a clip's frames, taken evenly. Raises :class:`InputError` when there are too few."""
    files = sorted(images_in(clip, deep=False), key=by_number)
    if len(files) < frames:
        raise InputError(
            f"{clip} holds {len(files)} frames, and {frames} are wanted of every clip: lower frames, or remove it."
        )
    return [files[i] for i in evenly(len(files), frames)]


def evenly(total: int, frames: int) -> list[int]:
    """Positions of the middles of ``frames`` equal parts of ``total`` frames: ascending, each once.

    >>> evenly(8, 8), evenly(10, 2)
    ([0, 1, 2, 3, 4, 5, 6, 7], [2, 7])
    """
    return [(2 * part + 1) * total // (2 * frames) for part in range(frames)]


def by_number(name: str) -> list[tuple[int, str]]:
    """Sorting key under which frame2 comes before frame10."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), piece) if piece.isdecimal() else (-1, piece) for piece in pieces]


def clip_folders(folder: Path) -> list[str]:
    """The clips of a class. Raises :class:`InputError` for frames that lie beside them."""
    loose = images_in(folder, deep=False)
    if loose:
        raise InputError(f"{loose[0]} lies in no clip's folder: {LAYOUT}")
    return [str(folder / name) for name in subfolders(folder)]


CLIPS = Kind("clips", find=clip_folders, loose=lambda folder: images_in(folder, deep=False), ways=LAYOUT)
