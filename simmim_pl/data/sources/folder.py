"""Any folder of images, labelled or not: decoded once and cached, or batch by batch in workers if too large."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.cache import load_or_decode, readable_positions
from simmim_pl.data.files.decode import decode_all, decode_batch
from simmim_pl.data.files.digest import digest, file_stats
from simmim_pl.data.files.download import data_folder
from simmim_pl.data.files.layout import ItemKind, class_names, list_images, list_labelled, require_folder, subfolders
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveInt, ranged

LAYOUTS = (
    "for labels, sort the images into train/CLASS/ and test/CLASS/ (or val/CLASS/), at least two classes; "
    "to train without labels, put them into train/ or directly into the folder."
)
IMAGES = ItemKind(
    "images", list_items=list_images, list_loose=lambda folder: list_images(folder, deep=False), expected_layout=LAYOUTS
)


class Folder(Source):
    """Images on disk: ``train/<class>/*`` and ``test/<class>/*``, or without labels ``train/*``, or ``*``.

    If there is no folder ``test``, ``val`` is the test split, as in ImageNet. Class folders are read recursively. Names
    are sorted, so labels and order are the same on every machine. Hidden files are ignored. Without labels there is no
    test split. ``classes`` is known after ``load``. :func:`simmim_pl.data.files.decode.decode` says how files are
    converted to RGB.

    Args:
        root: the folder.
        size: height and width of the images: the shorter side is resized to it, then the centre is cropped.
        memory_gb: a split of at most this many GB (10⁹ bytes) as uint8 is decoded once; a larger one is decoded batch
            by batch, in every epoch, in the DataLoader's workers.
        cache: cache decoded images for later runs and other processes, in the folder ``.decoded`` of SIMMIM_DATA_DIR
            (else of ``data``); see :func:`simmim_pl.data.files.cache.load_or_decode`. Cache files of folders that have
            changed since are not deleted: delete them when no run uses them.
        skip_corrupt: leave out images that cannot be decoded, and report how many; by default the first ends the run.
            Before the first run, all images are decoded to find them.
    """

    @ranged
    def __init__(
        self,
        root: str,
        size: PositiveInt = 32,
        memory_gb: NonNegativeFloat = 4.0,
        cache: bool = True,
        skip_corrupt: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.size = size
        self.memory_gb = memory_gb
        self.cache = cache
        self.skip_corrupt = skip_corrupt

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def prepare(self) -> None:
        """Check the layout of both splits without opening images. Raises :class:`InputError` as ``load``."""
        _, classes = train_layout(self.root)
        if classes:
            list_labelled(self.root, "train", IMAGES)
            if self.folder("test").is_dir():
                list_labelled(self.root, "test", IMAGES, self.folder("test"))

    def has_test(self) -> bool:
        """Whether images have labels and a folder ``test`` or ``val`` exists."""
        return self.folder("test").is_dir() and bool(train_layout(self.root)[1])

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; the split does not exist; an
                image cannot be read (if the split fits into memory; otherwise the error comes with its batch).
        """
        files, self.classes = train_layout(self.root)
        labels = None
        if not files:
            files, labels = list_labelled(self.root, split, IMAGES, self.folder(split))
        elif split == "test":
            raise InputError(f"{self.root} holds images without labels, so it has no test split: {LAYOUTS}")
        cache = data_folder(None) / ".decoded" if self.cache else None
        if self.skip_corrupt:
            kept = readable_positions(files, self.size, cache)
            files, labels = [files[i] for i in kept], None if labels is None else labels[kept]
        if len(files) * 3 * self.size**2 > self.memory_gb * 1e9:
            return OnDisk(files, self.size, labels)
        pixels = load_or_decode(files, self.size, cache) if cache else decode_all(files, self.size)
        images = InMemory(pixels, labels)
        images.files = files
        return images

    def folder(self, split: Split) -> Path:
        """Folder of a split: ``val`` for a test split without a folder ``test``, as in ImageNet."""
        named, val = self.root / split, self.root / "val"
        return val if split == "test" and not named.is_dir() and subfolders(val) else named


class OnDisk(ImageDataset):
    """A split that is decoded batch by batch."""

    def __init__(self, files: list[str], size: int, labels: Int64[Tensor, " N"] | None) -> None:
        super().__init__(labels, workers=True)
        self.files: list[str] = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B 3 H W"]:
        return decode_batch([self.files[i] for i in index.tolist()], self.size)

    def digest(self) -> str:
        """Digest of the files' paths, sizes and modification times; no image is opened."""
        return digest(file_stats(self.files), self.size, self.labels)


def train_layout(root: Path) -> tuple[list[str], list[str]]:
    """Paths of the unlabelled training images, or names of the classes: one of the two lists is empty.

    Raises:
        InputError: the folder has no images, or is laid out in neither way.
    """
    require_folder(root, IMAGES)
    folder = root / "train" if (root / "train").is_dir() else root
    loose, names = list_images(folder, deep=False), subfolders(folder)
    nested = [name for name in names if list_images(folder / name)]
    if loose and nested:
        raise InputError(f"{folder} holds both images and a folder of images, {nested[0]}: {LAYOUTS}")
    if loose:
        return loose, []
    if not nested:
        raise InputError(f"{folder} holds no images: {LAYOUTS}")
    if folder == root:
        raise InputError(f"{folder} holds folders of images, but no folder named train: {LAYOUTS}")
    return [], class_names(root, IMAGES)
