"""Clips as video files, decoded by torchcodec, or by older versions of torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import resize_and_crop
from simmim_pl.data.files.digest import digest, file_stats
from simmim_pl.data.files.layout import ItemKind, class_names, list_files, list_labelled
from simmim_pl.data.source import ImageDataset, Source, Split
from simmim_pl.data.sources.frames import evenly_spaced
from simmim_pl.runtime.ranges import PositiveInt, ranged

EXTENSIONS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"}
LAYOUT = "sort the videos into train/CLASS/ and test/CLASS/, at least two classes, as mp4, avi, mov, mkv, webm or gif."
VIDEOS = ItemKind(
    "videos",
    list_items=lambda folder: list_files(folder, EXTENSIONS, deep=True),
    list_loose=lambda folder: list_files(folder, EXTENSIONS, deep=False),
    expected_layout=LAYOUT,
)


class VideoFolder(Source):
    """Videos on disk: ``train/<class>/*`` and ``test/<class>/*``; class folders are read recursively.

    Frames are sampled evenly, see :func:`simmim_pl.data.sources.frames.evenly_spaced`. ``classes`` is known after
    ``load``. Needs ``pip install 'simmim_pl[video]'`` and FFmpeg.

    Args:
        root: the folder.
        size: height and width of the frames: the shorter side is resized to it, then the centre is cropped.
        frames: frames sampled from each video.
    """

    @ranged
    def __init__(self, root: str, size: PositiveInt = 32, frames: PositiveInt = 8) -> None:
        self.root = Path(root).expanduser()
        self.size, self.frames = size, frames

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def prepare(self) -> None:
        """Check the layout of both splits, and decode the first video.

        Raises:
            InputError: as ``load``, or if no decoder is installed.
        """
        class_names(self.root, VIDEOS)
        files, _ = list_labelled(self.root, "train", VIDEOS)
        if (self.root / "test").is_dir():
            list_labelled(self.root, "test", VIDEOS)
        decode_video(files[0], self.frames, self.size)

    def has_test(self) -> bool:
        """Whether the folder ``test`` exists."""
        return (self.root / "test").is_dir()

    def load(self, split: Split) -> VideoFiles:
        """Open one split. Raises :class:`InputError` if the folder is missing, empty or laid out in another way."""
        self.classes = class_names(self.root, VIDEOS)
        files, labels = list_labelled(self.root, split, VIDEOS)
        return VideoFiles(files, self.frames, self.size, labels)


class VideoFiles(ImageDataset):
    """A split of clips ``uint8 [T, 3, S, S]`` that are decoded batch by batch in workers, since videos are slow."""

    def __init__(self, files: list[str], frames: int, size: int, labels: Int64[Tensor, " N"]) -> None:
        super().__init__(labels, workers=True, clips=True)
        self.files: list[str] = files
        self.frames, self.size = frames, size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B T 3 S S"]:
        return torch.stack([decode_video(self.files[i], self.frames, self.size) for i in index.tolist()])

    def digest(self) -> str:
        """Digest of the files' paths, sizes and modification times; no video is opened."""
        return digest("videos", file_stats(self.files), self.frames, self.size, self.labels)


def decode_video(file: str, frames: int, size: int) -> UInt8[Tensor, "T 3 S S"]:
    """Decode evenly spaced frames of a video, resized and cropped like images.

    Args:
        file: path.
        frames: T, number of frames.
        size: S, height and width in pixels.

    Raises:
        InputError: no decoder is installed; the file is damaged, is no video, or has fewer frames.
    """
    try:
        pixels = read_frames(file, frames)
    except InputError:
        raise
    except Exception as error:  # decoders raise many types
        if "libtorchcodec" in str(error):
            raise InputError(
                "torchcodec is installed but cannot be loaded: install FFmpeg's shared libraries, for example with "
                "apt install ffmpeg or conda install ffmpeg, and the torchcodec made for your version of torch."
            ) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{file} cannot be read as a video ({reason}): replace it or remove it.") from error
    fitted = [np.asarray(resize_and_crop(Image.fromarray(frame), size)) for frame in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous()


def read_frames(file: str, frames: int) -> UInt8[Tensor, "T 3 H W"]:
    """Decode the frames at the video's own size. Raises :class:`InputError`, and any error of the decoder."""
    try:
        from torchcodec.decoders import VideoDecoder  # optional, and slow to import
    except ImportError:
        return read_frames_by_torchvision(file, frames)
    video = VideoDecoder(file)
    pixels: Tensor = video.get_frames_at(frame_positions(file, len(video), frames)).data
    return pixels


def read_frames_by_torchvision(file: str, frames: int) -> UInt8[Tensor, "T 3 H W"]:
    """As :func:`read_frames`, with the reader of older versions of torchvision."""
    try:
        video: Tensor = torchvision.io.read_video(file, pts_unit="sec", output_format="TCHW")[0]
    except (AttributeError, ImportError) as error:  # torchvision without the reader, or without PyAV
        raise InputError("To read videos, install a decoder: pip install 'simmim_pl[video]'.") from error
    return video[frame_positions(file, len(video), frames)]


def frame_positions(file: str, total: int, frames: int) -> list[int]:
    """Positions of the frames to decode. Raises :class:`InputError` if the video has fewer."""
    if total < frames:
        raise InputError(f"{file} holds {total} frames, and every clip needs {frames}: lower frames, or remove it.")
    return evenly_spaced(total, frames)
