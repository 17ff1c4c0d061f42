"""Export an encoder: write to a temporary folder, verify, write the model card, rename."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.frozen import digest
from simmim_pl.export.formats import FORMATS
from simmim_pl.export.hub import push, require_hub
from simmim_pl.export.images import real_images
from simmim_pl.export.model_card import model_card
from simmim_pl.export.pretrained import load_pretrained
from simmim_pl.export.results import result_cards
from simmim_pl.export.verify import verify
from simmim_pl.runtime import atomic
from simmim_pl.runtime.checkpoint import Network


@dataclass(frozen=True)
class Options:
    """What is exported, and how; the command line's arguments.

    Attributes:
        checkpoint: that pretraining wrote.
        folder: to write, new or empty.
        to: one of :data:`simmim_pl.export.formats.FORMATS`.
        images: folder of images to compare on; by default the run's data, if they are here.
        size: side of the images; by default that of the run's.
        license: of the weights, as the hub names it.
        push: repository of the hub to upload to, ``OWNER/NAME``.
        network: whose encoder.
        allow: classes outside this package that may be imported.
    """

    checkpoint: Path
    folder: Path
    to: str
    images: Path | None = None
    size: int | None = None
    license: str = "unknown"
    push: str | None = None
    network: Network = "online"
    allow: Sequence[str] = ()


def export(options: Options) -> None:
    """Export an encoder, and print what was compared and written.

    Raises:
        InputError: the checkpoint, the images or the format do not serve; the folder is not empty; or what the file
            computes differs from the encoder.
        OSError: the folder cannot be written.
    """
    require_free(options)
    pretrained = load_pretrained(options.checkpoint, options.network, options.allow)
    images, source = real_images(pretrained.config, options.checkpoint, options.images, options.size)
    form = FORMATS[options.to](pretrained, images)
    cards, left = result_cards(options.checkpoint, pretrained.encoder)
    with placed(options.folder) as folder:
        form.write(folder)
        lines = form.loading(str(folder / form.file))
        difference = verify(lines, form.run, pretrained.encoder, images, options.to)
        side = images.shape[-1]
        compared = f"{len(images)} images of {source}, {side}×{side} pixels"
        own = digest(pretrained.encoder)
        card = model_card(form, cards, own, difference, compared, options.license, options.push)
        atomic.write(folder / "README.md", lambda file: file.write(card.encode()))
    print(
        f"Compared on {compared}: the largest difference from the encoder is {difference.largest:.2g}, where features "
        f"are up to {difference.magnitude:.2g}."
    )
    for name in left:
        print(f"{name} is not in the card: it belongs to other weights.")
    print(f"Written to {options.folder}: {', '.join(sorted(path.name for path in options.folder.iterdir()))}")
    if options.push:
        print(f"Pushed to {push(options.folder, options.push)}")


def require_free(options: Options) -> None:
    """Raise :class:`InputError` if the folder is not new or empty, or an option cannot be, before anything is read."""
    folder = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty, and an export replaces nothing: give a new folder.")
    if options.size is not None and options.size < 1:
        raise InputError(f"--size {options.size} is not a valid image size: give at least 1 pixel.")
    if options.push:
        require_hub(options.push)


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A temporary folder, renamed to this one at the end, and deleted after an error."""
    place = folder.absolute()
    there = next(parent for parent in place.parents if parent.is_dir())  # on the same disk: a rename is one step
    scratch = there / f".{place.name}.{uuid4().hex}.part"
    scratch.mkdir()
    try:
        yield scratch
        place.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()  # empty, or else somebody has written to it meanwhile
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
