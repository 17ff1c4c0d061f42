"""Encoded images of a split: files, or bytes that lie in another file, such as rows of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simmim_pl.data.files.digest import file_stats


@dataclass(frozen=True)
class ImageBytes:
    """The content of an image file that is not a file of its own.

    Attributes:
        name: for errors.
        content: of the file.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Encoded = str | ImageBytes  # a path, or bytes


class EncodedImages(ABC):
    """Contract of the encoded images of a split, from which any can be taken without reading the others."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def take(self, positions: Sequence[int]) -> list[Encoded]:
        """The images at these positions."""

    @abstractmethod
    def stats(self) -> object:
        """What changes when any image does, and is the same in every process, found without reading images."""

    @property
    @abstractmethod
    def paths(self) -> list[str] | None:
        """Path of each image, or ``None`` if they are not files."""

    def __getitem__(self, at: Any) -> Any:
        return self.take(range(len(self))[at]) if isinstance(at, slice) else self.take([at])[0]


class ImagePaths(EncodedImages):
    """Images that are files.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: list[str]) -> None:
        self.files = paths

    def __len__(self) -> int:
        return len(self.files)

    def take(self, positions: Sequence[int]) -> list[Encoded]:
        return [self.files[at] for at in positions]

    def stats(self) -> object:
        """See :func:`simmim_pl.data.files.digest.file_stats`."""
        return file_stats(self.files)

    @property
    def paths(self) -> list[str]:
        return self.files


class Selected(EncodedImages):
    """Some images of a set.

    Args:
        images: the set.
        positions: of the images.
    """

    def __init__(self, images: EncodedImages, positions: list[int]) -> None:
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: Sequence[int]) -> list[Encoded]:
        return self.images.take([self.positions[at] for at in positions])

    def stats(self) -> object:
        return self.images.stats(), self.positions

    @property
    def paths(self) -> list[str] | None:
        paths = self.images.paths
        return None if paths is None else [paths[at] for at in self.positions]
