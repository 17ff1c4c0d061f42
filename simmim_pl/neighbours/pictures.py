"""Small pictures of a table's images: from their files, or from the data set of a config."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt
from PIL import Image
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.described import build_source, nested
from simmim_pl.data.files.decode import decode, resize_and_crop
from simmim_pl.data.source import ImageDataset, Source, Split
from simmim_pl.neighbours.table import Table
from simmim_pl.runtime import yaml_schema
from simmim_pl.runtime.pixels import as_bytes, as_rgb

SIDE = 96  # pixels, at most


class Pictures:
    """JPEG files of at most 96 pixels a side.

    Args:
        table: of the images.
        config: of the data set: a run's ``config.yaml``, or a fragment of ``configs/data``; by default the config
            beside the table. Not used where the table has paths.
    """

    def __init__(self, table: Table, config: Path | None) -> None:
        self.table, self.asked = table, config
        self.config = config or table.path.with_name("config.yaml")
        self.sets: dict[Split, ImageDataset] = {}
        self.classes: list[str] = []  # known once a picture comes from a data set
        self.missing: str | None = None  # why there are images without a picture, as a sentence

    def __call__(self, row: int) -> bytes | None:
        """The picture of a row, or ``None``, with the reason in :attr:`missing`.

        Raises:
            InputError: the data set that the user named is not here, or is not the table's.
        """
        path = self.table.value("path", row)
        try:
            return picture_of_file(path) if path is not None else jpeg(self.pixels(row))
        except (InputError, OSError) as error:
            sentence = str(error)
            if path is not None and not Path(path).exists():
                relative = "paths are relative to the folder where predict ran, so run this there"
                moved = "move it back, or run predict again"
                sentence = f"{path} is not here: {moved if Path(path).is_absolute() else relative}."
            if self.asked is not None and path is None:
                raise InputError(sentence) from error
            self.missing = self.missing or sentence
            return None

    def label(self, row: int) -> str:
        """The class of an image by name if it is known, else by number; empty if it has none."""
        label = self.table.value("label", row)
        if label is None:
            return ""
        return self.classes[label] if 0 <= label < len(self.classes) else f"label {label}"

    def pixels(self, row: int) -> UInt[Tensor, "C H W"]:
        """The image of a row in the data set. Raises :class:`InputError` where there is none."""
        split: Split = "test" if self.table.value("split", row) == "test" else "train"
        if split not in self.sets:
            self.sets[split] = self.require_same(self.source.load(split), split)
            self.classes = self.source.classes
        return self.sets[split].read(torch.tensor([self.table.value("index", row)]))[0]

    @cached_property
    def source(self) -> Source:
        """The data set that the config describes. Raises :class:`InputError` if there is no config or no set."""
        if not self.config.is_file():
            raise InputError(
                f"The table has no paths, and {self.config} is not here: name the run's config with --data to see the "
                "images."
            )
        config = yaml_schema.load(self.config)
        spec = nested(config, "data", "init_args", "source") or nested(config, "init_args", "source")
        return build_source(spec, self.config)

    def require_same(self, images: ImageDataset, split: Split) -> ImageDataset:
        """These images. Raises :class:`InputError` if they cannot be those of the table."""
        known = self.table.known
        of_split = [(name == "test") == (split == "test") for name in known["split"].to_pylist()]
        index = torch.tensor(known["index"].to_numpy())[of_split]
        same = len(index) == 0 or int(index.max()) < len(images)
        if same and images.labels is not None and "label" in known.column_names:
            label = torch.tensor(known["label"].fill_null(-1).to_numpy())[of_split]
            same = bool((label == images.labels[index]).all())
        if not same or images.clips:
            raise InputError(f"The {split} images that {self.config} describes are not those of {self.table.path}.")
        return images


def picture_of_file(path: str) -> bytes:
    """A picture of an image file. Raises :class:`InputError` if it cannot be decoded."""
    return encoded(decode(path, SIDE))


def jpeg(pixels: UInt[Tensor, "C H W"]) -> bytes:
    """A picture of pixels, made smaller if they are large."""
    image = Image.fromarray(as_bytes(as_rgb(pixels)).permute(1, 2, 0).contiguous().numpy())
    return encoded(resize_and_crop(image, SIDE) if min(image.size) > SIDE else image)


def encoded(image: Image.Image) -> bytes:
    """An image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85, subsampling=0)
    return file.getvalue()
