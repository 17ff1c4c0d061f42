"""Clips as folders of frame images: decoded once into memory, or batch by batch in workers if too large."""

from __future__ import annotations

import re
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import decode_all, decode_batch
from simmim_pl.data.files.digest import digest, file_stats
from simmim_pl.data.files.layout import ItemKind, class_names, list_images, list_labelled, subfolders
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, ranged

LAYOUT = (
    "sort the clips into train/CLASS/CLIP/ and test/CLASS/CLIP/, at least two classes, "
    "where CLIP is a folder of frame images."
)


class FrameFolder(Source):
    """Clips on disk: ``train/<class>/<clip>/*`` and ``test/<class>/<clip>/*``, each clip a folder of frame images.

    Frames are sorted by name in natural order (2 before 10) and sampled evenly, see :func:`evenly_spaced`. ``classes``
    is known after ``load``. :func:`simmim_pl.data.files.decode.decode` says how files are converted to RGB.

    Args:
        root: the folder.
        size: height and width of the frames: the shorter side is resized to it, then the centre is cropped.
        frames: frames sampled from each clip.
        memory_gb: a split of at most this many GB (10⁹ bytes) as uint8 is decoded once into memory, in every
            process; a larger one batch by batch in the DataLoader's workers.
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
        """Check the layout of both splits without opening frames. Raises :class:`InputError` as ``load``."""
        class_names(self.root, CLIPS)
        self.clips("train")
        if (self.root / "test").is_dir():
            self.clips("test")

    def has_test(self) -> bool:
        """Whether the folder ``test`` exists."""
        return (self.root / "test").is_dir()

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; a clip has too few frames; a frame
                cannot be read (if the split fits into memory; otherwise the error comes with its batch).
        """
        self.classes = class_names(self.root, CLIPS)
        clips, labels = self.clips(split)
        if len(clips) * self.frames * 3 * self.size**2 > self.memory_gb * 1e9:
            return FrameFiles(clips, self.size, labels)
        images = decode_all([file for clip in clips for file in clip], self.size)
        return InMemory(images.view(len(clips), self.frames, *images.shape[1:]), labels)

    def clips(self, split: Split) -> tuple[list[list[str]], Int64[Tensor, " N"]]:
        """Paths of the sampled frames of each clip, and the labels ``[N]``."""
        folders, labels = list_labelled(self.root, split, CLIPS)
        return [frame_files(Path(folder), self.frames) for folder in folders], labels


class FrameFiles(ImageDataset):
    """A split of clips ``uint8 [T, 3, S, S]`` that are decoded batch by batch."""

    def __init__(self, clips: list[list[str]], size: int, labels: Int64[Tensor, " N"]) -> None:
        super().__init__(labels, workers=True, clips=True)
        self.frames = clips
        self.size = size

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B T 3 S S"]:
        files = [file for i in index.tolist() for file in self.frames[i]]
        return decode_batch(files, self.size).view(len(index), -1, 3, self.size, self.size)

    def digest(self) -> str:
        """Digest of the files' paths, sizes and modification times; no frame is opened."""
        files = [file for clip in self.frames for file in clip]
        return digest("frames", file_stats(files), self.size, self.labels)


def frame_files(clip: Path, frames: int) -> list[str]:
    """Paths of ``frames`` evenly spaced frames of a clip. Raises :class:`InputError` if there are fewer."""
    files = sorted(list_images(clip, deep=False), key=natural_sort_key)
    if len(files) < frames:
        raise InputError(
            f"{clip} holds {len(files)} frames, and every clip needs {frames}: lower frames, or remove it."
        )
    return [files[i] for i in evenly_spaced(len(files), frames)]


def evenly_spaced(total: int, frames: int) -> list[int]:
    """Positions of the middle frames of ``frames`` equal segments of ``total`` frames: ascending, without repeats.

    >>> evenly_spaced(8, 8), evenly_spaced(10, 2)
    ([0, 1, 2, 3, 4, 5, 6, 7], [2, 7])
    """
    return [(2 * part + 1) * total // (2 * frames) for part in range(frames)]


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: frame2 before frame10."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), piece) if piece.isdecimal() else (-1, piece) for piece in pieces]


def clip_folders(folder: Path) -> list[str]:
    """Folders of the clips of a class. Raises :class:`InputError` if frames lie next to them."""
    loose = list_images(folder, deep=False)
    if loose:
        raise InputError(f"{loose[0]} is not in a clip's folder: {LAYOUT}")
    return [str(folder / name) for name in subfolders(folder)]


CLIPS = ItemKind(
    "clips", list_items=clip_folders, list_loose=lambda folder: list_images(folder, deep=False), expected_layout=LAYOUT
)
