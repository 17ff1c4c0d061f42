"""Any folder of images, labelled or not: decoded once and cached, or batch by batch in workers if too large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.contracts import InputError
from simmim_pl.data.encoded import NO_TEST, EncodedSource
from simmim_pl.data.files.classes import (
    LAYOUTS,
    beside_train,
    class_folders,
    lettered,
    read_test,
    read_train,
    require_apart,
    require_classes,
    test_folder_of,
)
from simmim_pl.data.files.encoded import ImagePaths
from simmim_pl.data.files.layout import sort_paths
from simmim_pl.data.files.tree import Tree, counted, describe_others, every_image, images_of_classes, shortened
from simmim_pl.data.source import ImageDataset, Split


class Folder(EncodedSource):
    """Images on disk: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*``, or without labels at any depth.

    Only images in ``train`` are trained on, if there is such a folder. If there is no folder ``test``, ``val`` is the
    test split, as in ImageNet. Class folders are read recursively. Names are sorted, so labels and order are the same
    on every machine. Hidden files are ignored; links are followed, and read once where they loop. ``prepare`` prints
    what was found and which files are no images. Without labels there is no test split. ``classes`` is known after
    ``load``. :func:`simmim_pl.data.files.decode.decode` says how files are converted to RGB, and
    :func:`simmim_pl.data.files.bands.read_bands` what is read otherwise.

    Args:
        root: the folder, or a list of folders of the same layout, which are read as one; classes of one name are one.
        labels: whether folders are classes; by default as the layout says: those in ``train`` are; without ``train``,
            they are unless images lie beside them, or all their names are dates or numbers. A single one never is.
        kwargs: how images are decoded, see :class:`simmim_pl.data.encoded.EncodedSource`.
    """

    def __init__(self, root: list[str] | str, *, labels: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.roots = [Path(each).expanduser() for each in ([root] if isinstance(root, str) else root)]
        self.labels, self.arrays = labels, self.form.channels != "rgb"
        if not self.roots:
            raise InputError("Folder's root is an empty list: name at least one folder.")

    @property
    def name(self) -> str:
        """The folder's name."""
        return ", ".join(root.resolve().name for root in self.roots)

    def prepare(self) -> None:
        """Check the layout of both splits without opening images, and print it. Raises :class:`InputError`."""
        trees, classes = self.train()
        test = read_test(self.roots, trees, classes, self.arrays) if classes and self.has_test_folder() else []
        rank_zero_info(self.describe(trees, classes))
        others = sort_paths(path for tree in [*trees, *test] for path in tree.others)
        if others:
            rank_zero_info(f"Left out {describe_others(others)}.")
        if beside := [path for root in self.roots for path in beside_train(root, labelled=bool(classes))]:
            rank_zero_info(f"Left out folders beside train: {shortened(beside)}.")

    def has_test(self) -> bool:
        """Whether images have labels and a folder ``test`` or ``val`` exists."""
        return self.has_test_folder() and bool(self.train()[1])

    def load(self, split: Split) -> ImageDataset:
        """Open one split.

        Raises:
            InputError: the folder is missing, empty or laid out in another way; the split does not exist; an
                image cannot be read (if the split fits into memory; otherwise the error comes with its batch).
        """
        trees, self.classes = self.train()
        if split == "test":
            trees = self.test(trees)
        if not self.classes:
            return self.open(split, ImagePaths(every_image(trees)[0]), None)
        files, labels = images_of_classes(trees, self.classes)
        return self.open(split, ImagePaths(files), labels)

    def train(self) -> tuple[list[Tree], list[str]]:
        """The training images of each root, and the names of their classes; none if they have no labels."""
        require_apart(self.roots)
        trees = [read_train(root, self.arrays) for root in self.roots]
        found = [class_folders(*each, self.labels) for each in zip(self.roots, trees, strict=True)]
        classes = sorted({name for names in found for name in names}) if all(found) else []
        if classes:
            require_classes(trees, classes)
        return trees, classes

    def test(self, train: list[Tree]) -> list[Tree]:
        """The test images of each root. Raises :class:`InputError` if there are none."""
        if not self.classes:
            named = sorted({name for tree in train for name in tree.named()})
            if self.labels is None and len(named) == 1 and not any(tree.loose for tree in train):
                require_classes(train, named)
            raise InputError(f"{self.name} holds images without labels, so it has no test split: {LAYOUTS}")
        if not self.has_test_folder():
            raise InputError(f"{self.name} has no test split, a folder named test beside train: add one, or {NO_TEST}.")
        return read_test(self.roots, train, self.classes, self.arrays)

    def has_test_folder(self) -> bool:
        """Whether any root has a folder of test images."""
        return any(map(test_folder_of, self.roots))

    def describe(self, trees: list[Tree], classes: list[str]) -> str:
        """One line: how the training images were read, and how to read them the other way."""
        files, folders = every_image(trees)
        if classes:
            files, _ = images_of_classes(trees, classes)
            read, other = f"of {len(classes)} classes ({shortened(classes)})", "false they are read without labels"
            ambiguous = any(tree.folder in self.roots for tree in trees) or not lettered(classes)
        else:
            named = sorted({name for tree in trees for name in tree.named()})
            read = f"in {counted(folders, 'folder')}, without labels"
            other = f"true the folders {shortened(named)} are classes"
            ambiguous = len(named) > 1 and not any(tree.loose for tree in trees)
        hint = f"; with its labels set to {other}" if self.labels is None and ambiguous else ""
        return f"{self.name}: {counted(len(files), 'image')} {read}{hint}."
