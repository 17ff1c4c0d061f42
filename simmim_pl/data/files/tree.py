"""What lies below a folder of images: which folder in it holds which images, and which files are no images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.data.files.formats import image_extensions
from simmim_pl.data.files.layout import extension, sort_paths, subfolders, walk

SHOWN = 3  # names in a sentence, before an ellipsis


@dataclass
class Tree:
    """A folder's visible files.

    Attributes:
        folder: its path.
        loose: images directly in it.
        images: images at any depth in each folder in it, by that folder's name, sorted; then by their own real folder.
        others: files that are no images.
    """

    folder: Path
    loose: list[str] = field(default_factory=list)
    images: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def named(self) -> list[str]:
        """Names of the folders that hold images."""
        return [name for name, found in self.images.items() if found]

    def of(self, name: str) -> list[str]:
        """Images at any depth in the folder of that name, sorted; none if there is no such folder."""
        return sort_paths(path for paths in self.images.get(name, {}).values() for path in paths)


def read_tree(folder: Path, arrays: bool = False) -> Tree:
    """List a folder, by extension, without opening a file. Links are followed as in ``layout.list_files``.

    - ``arrays``: whether arrays, ``.npy``, are images.
    """
    tree, endings = Tree(folder), image_extensions(arrays)

    def images(paths: list[str]) -> list[str]:
        tree.others += [path for path in paths if extension(path) not in endings]
        return [path for path in paths if extension(path) in endings]

    for paths in walk(folder, deep=False).values():
        tree.loose += images(paths)
    for name in subfolders(folder):
        found = {real: images(paths) for real, paths in walk(folder / name, deep=True).items()}
        tree.images[name] = {real: paths for real, paths in found.items() if paths}
    return tree


def every_image(trees: Iterable[Tree]) -> tuple[list[str], int]:
    """All images of some trees, tree by tree and sorted in each, and the number of folders that hold them.

    The images of a folder that links make part of several are listed once, under the first path.
    """
    files: list[str] = []
    seen: set[str] = set()
    for tree in trees:
        found = {str(tree.folder.resolve()): tree.loose} if tree.loose else {}
        for real, paths in (item for below in tree.images.values() for item in below.items()):
            found.setdefault(real, paths)
        files += sort_paths(path for real, paths in found.items() if real not in seen for path in paths)
        seen |= found.keys()
    return files, len(seen)


def images_of_classes(trees: list[Tree], classes: list[str]) -> tuple[list[str], Int64[Tensor, " N"]]:
    """The images in the folders of these names, class by class, and their labels: positions in ``classes``."""
    found = [[path for tree in trees for path in tree.of(name)] for name in classes]
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in found]))
    return [path for paths in found for path in paths], labels


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def shortened(names: list[str]) -> str:
    """The first names of a list.

    >>> shortened(["a", "b"]), shortened(["a", "b", "c", "d"])
    ('a, b', 'a, b, c, …')
    """
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def describe_others(paths: list[str]) -> str:
    """Files that are no images: their number, some names, and how many there are of each extension.

    >>> describe_others(["a/notes.txt", "b/more.txt", "b/Thumbs.db", "b/LICENSE"])
    '4 files that are no images: notes.txt, more.txt, Thumbs.db, … (.txt 2, .db 1, without extension 1)'
    """
    counts = Counter(extension(path) or "without extension" for path in paths).most_common()
    names = shortened([Path(path).name for path in paths[: SHOWN + 1]])
    kinds = ", ".join(f"{ending} {number}" for ending, number in counts)
    noun = "1 file that is no image" if len(paths) == 1 else f"{len(paths):,} files that are no images"
    return f"{noun}: {names} ({kinds})"
