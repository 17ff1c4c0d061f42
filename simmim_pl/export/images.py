"""Real images to compare an exported file and the encoder on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from simmim_pl.contracts import InputError
from simmim_pl.data import Folder
from simmim_pl.data.described import build_source, format_of, nested, size_of, source_of
from simmim_pl.data.files.decode import decode_batch
from simmim_pl.data.files.encoded import ImagePaths
from simmim_pl.data.files.find_range import find_range
from simmim_pl.data.files.layout import list_images
from simmim_pl.data.files.pixel_format import PixelFormat
from simmim_pl.runtime.pixels import as_float

NUMBER = 8  # images: two batches of different size, one of them odd
FEW = {"simmim_pl.data.Shapes": {"train": 10, "test": 10}}  # to draw as few images as the source allows


def real_images(
    config: dict[str, Any], path: Path, folder: Path | None, size: int | None
) -> tuple[Float[Tensor, "B C S S"], str]:
    """A few images, in [0, 1]: of a folder, or else of the data of the run, if it is here.

    Args:
        config: the run's.
        path: the checkpoint, for errors.
        folder: of images, searched with the folders in it.
        size: side of the images; by default that of the run's images.

    Returns:
        The images, and where they come from.

    Raises:
        InputError: there are none.
    """
    if folder is not None:
        pixels = decoded(folder, size or size_of(config), format_of(config))
        return as_float(pixels), f"{folder.resolve().name}/"
    spec = source_of(config)
    name = str(nested(spec, "class_path")).rpartition(".")[2]
    try:
        pixels = images_of(spec, path, size)
    except (InputError, OSError) as error:
        raise InputError(
            f"The run's own images ({name}) cannot be loaded to verify the export ({str(error).rstrip('.')}): give a "
            "folder of images with --images FOLDER."
        ) from error
    if size is not None and pixels.shape[-1] != size:
        pixels = transforms.resize(pixels, [size, size], antialias=True)
    return as_float(pixels), name


def images_of(spec: Any, path: Path, size: int | None) -> UInt[Tensor, "B C S S"]:
    """The first images of a source, of test if it has one, not downloaded. Raises :class:`InputError`, OSError."""
    source = build_source(spec, path, **FEW.get(str(nested(spec, "class_path")), {}))
    if isinstance(source, Folder):  # whose splits are decoded whole
        return decoded(source.roots[0], size or source.size, source.form)
    images = source.load("test" if source.has_test() else "train")
    return images.read(torch.arange(min(NUMBER, len(images))))


def decoded(folder: Path, size: int | None, form: PixelFormat) -> UInt[Tensor, "B C S S"]:
    """Images from all over a folder, of their own range if ``form`` states none.

    Raises:
        InputError: it has too few, or the size is not known.
    """
    files = list_images(folder, arrays=form.channels != "rgb")
    if len(files) < 2:
        raise InputError(f"{folder} has {len(files)} images, and verifying an export needs at least two: give more.")
    if size is None:
        raise InputError("The checkpoint does not say how large its images are: add --size PIXELS.")
    few = files[:: max(1, len(files) // NUMBER)][:NUMBER]
    if form.channels != "rgb" and form.range is None:
        form = PixelFormat(form.channels, find_range(ImagePaths(few), form.channels))
    return decode_batch(few, size, form)
