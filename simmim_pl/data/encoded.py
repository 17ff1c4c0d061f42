"""Sources of encoded images: a split is decoded once and cached, or batch by batch in workers if it is too large."""

from __future__ import annotations

import os

from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.data.files.cache import load_or_decode, readable_positions
from simmim_pl.data.files.decode import decode_all, decode_batch, require_package
from simmim_pl.data.files.digest import digest
from simmim_pl.data.files.download import data_folder
from simmim_pl.data.files.encoded import EncodedImages, Selected
from simmim_pl.data.source import ImageDataset, InMemory, Source

NO_TEST = "hold test images out of train with simmim_pl.data.HeldOut"  # the end of an error: an evaluation needs some


class EncodedSource(Source):
    """Base class of sources whose images are encoded: a subclass finds them, and :meth:`open` makes a split of them.

    Args:
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
        memory_gb: a split of at most this many GB (10⁹ bytes) as uint8 is decoded once; a larger one is decoded batch
            by batch, in every epoch, in the DataLoader's workers.
        cache: cache decoded images for later runs and other processes, in the folder ``.decoded`` of SIMMIM_DATA_DIR
            (else of ``data``); see :func:`simmim_pl.data.files.cache.load_or_decode`. Cache files of images that have
            changed since are not deleted: delete them when no run uses them.
        skip_corrupt: leave out images that cannot be decoded, and report how many; by default the first ends the run.
            Before the first run, all images are decoded to find them.
    """

    def __init__(self, size: int, memory_gb: float, cache: bool, skip_corrupt: bool) -> None:
        self.size, self.memory_gb, self.cache, self.skip_corrupt = size, memory_gb, cache, skip_corrupt

    def open(self, encoded: EncodedImages, labels: Int64[Tensor, " N"] | None) -> ImageDataset:
        """A split of N images.

        Raises:
            InputError: a format needs a package that is not installed; an image cannot be read (if the split fits into
                memory; otherwise the error comes with its batch).
        """
        for path in {os.path.splitext(path)[1]: path for path in encoded.paths or []}.values():
            require_package(path)
        folder = data_folder(None) / ".decoded" if self.cache else None
        if self.skip_corrupt:
            kept = readable_positions(encoded, self.size, folder)
            encoded, labels = Selected(encoded, kept), None if labels is None else labels[kept]
        if len(encoded) * 3 * self.size**2 > self.memory_gb * 1e9:
            return OnDisk(encoded, self.size, labels)
        pixels = load_or_decode(encoded, self.size, folder) if folder else decode_all(encoded, self.size)
        images = InMemory(pixels, labels)
        images.files = encoded.paths
        return images


class OnDisk(ImageDataset):
    """A split that is decoded batch by batch."""

    def __init__(self, encoded: EncodedImages, size: int, labels: Int64[Tensor, " N"] | None) -> None:
        super().__init__(labels, workers=True)
        self.encoded, self.size = encoded, size
        self.files = encoded.paths

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        return decode_batch(self.encoded.take(index.tolist()), self.size)

    def digest(self) -> str:
        """Digest of the files' paths, sizes and modification times; no image is opened."""
        return digest(self.encoded.stats(), self.size, self.labels)
