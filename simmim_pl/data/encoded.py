"""Sources of encoded images: a split is decoded once and cached, or batch by batch in workers if it is too large."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jaxtyping import Int64, UInt
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.data.files.cache import load_or_decode, range_of, readable_positions
from simmim_pl.data.files.decode import decode_all, decode_batch, require_package
from simmim_pl.data.files.digest import digest
from simmim_pl.data.files.download import data_folder
from simmim_pl.data.files.encoded import EncodedImages, Selected
from simmim_pl.data.files.pixel_format import RGB, PixelFormat
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, ranged

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
        channels: ``rgb``: files are converted to 8-bit RGB. 1: grey, in the files' own numbers, of 8, 16 or 32 bits or
            floats. A larger number: as many bands or pages of a TIFF file, or channels of an array, ``.npy``; see
            :func:`simmim_pl.data.files.bands.read_bands`.
        range: the numbers that become 0 and 1, such as ``[0, 4095]`` for 12 bits; those beyond are clipped, and the
            others kept in 65,536 levels. By default 0 and 255 if the first image has 8 bits, else the least and the
            greatest of all training images, which are read to find them, and printed.

    Raises:
        InputError: a range is not ascending, or given with RGB.
    """

    @ranged
    def __init__(
        self,
        size: PositiveInt = 32,
        memory_gb: NonNegativeFloat = 4.0,
        cache: bool = True,
        skip_corrupt: bool = False,
        channels: PositiveInt | Literal["rgb"] = "rgb",
        range: tuple[float, float] | None = None,
    ) -> None:
        self.size, self.memory_gb, self.cache, self.skip_corrupt = size, memory_gb, cache, skip_corrupt
        self.form = PixelFormat(channels, range)
        self.settled = channels == "rgb" or range is not None  # or else the range has to be found

    def open(self, split: Split, encoded: EncodedImages, labels: Int64[Tensor, " N"] | None) -> ImageDataset:
        """A split of N images. Of test, ``load`` is called for train before, if the range is to be found there.

        Raises:
            InputError: a format needs a package that is not installed; an image cannot be read (if the split fits into
                memory; otherwise the error comes with its batch).
        """
        for path in {os.path.splitext(path)[1]: path for path in encoded.paths or []}.values():
            require_package(path)
        folder = data_folder(None) / ".decoded" if self.cache else None
        if self.skip_corrupt:
            # Without a range, any: what can be read does not depend on it.
            form = self.form if self.settled else replace(self.form, range=(0, 1))
            kept = readable_positions(encoded, self.size, folder, form)
            encoded, labels = Selected(encoded, kept), None if labels is None else labels[kept]
        if not self.settled and split == "test":
            self.load("train")
        if not self.settled:
            self.form, self.settled = self.found_form(encoded, folder), True
        form = self.form
        if len(encoded) * form.bytes(self.size) > self.memory_gb * 1e9:
            return OnDisk(encoded, self.size, labels, form)
        how = encoded, self.size
        pixels = load_or_decode(*how, folder, form) if folder else decode_all(*how, form)
        images = InMemory(pixels, labels)
        images.files = encoded.paths
        return images

    def found_form(self, encoded: EncodedImages, folder: Path | None) -> PixelFormat:
        """Pixels of the range of all numbers of the training images, which is printed unless they have 8 bits."""
        found = range_of(encoded, self.form.number, folder)
        if found:
            low, high = (f"{end:.9g}" for end in found)
            rank_zero_info(
                f"{self.name}: the training images' numbers are from {low} to {high}, which become 0 and 1; "
                f"--data.source.range '[{low}, {high}]' states it, for other data too."
            )
        return PixelFormat(self.form.channels, found)


class OnDisk(ImageDataset):
    """A split that is decoded batch by batch."""

    def __init__(
        self, encoded: EncodedImages, size: int, labels: Int64[Tensor, " N"] | None, form: PixelFormat = RGB
    ) -> None:
        super().__init__(labels, workers=True)
        self.encoded, self.size, self.form = encoded, size, form
        self.files = encoded.paths

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, index: Int64[Tensor, " B"]) -> UInt[Tensor, "B C H W"]:
        return decode_batch(self.encoded.take(index.tolist()), self.size, self.form)

    def digest(self) -> str:
        """Digest of the files' paths, sizes and modification times; no image is opened."""
        return digest(self.encoded.stats(), self.size, self.labels, *self.form.key)
