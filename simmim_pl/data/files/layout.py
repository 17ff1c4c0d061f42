"""List items and labels of class folders, ``train/<class>/`` and ``test/<class>/``: images, videos or clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.formats import image_extensions
from simmim_pl.data.source import Split


@dataclass(frozen=True)
class ItemKind:
    """A kind of item in class folders: how to list items, and the words for errors."""

    noun: str  # plural
    list_items: Callable[[Path], list[str]]  # all items of a class, given its folder; sorted
    list_loose: Callable[[Path], list[str]]  # items directly in a folder that should hold class folders only
    expected_layout: str  # how the folder has to be laid out, as the end of an error


def class_names(root: Path, kind: ItemKind) -> list[str]:
    """Names of the classes: the folders in ``train``, sorted. Raises :class:`InputError` for fewer than two."""
    require_folder(root, kind)
    train = root / "train"
    if not train.is_dir():
        raise InputError(f"{root} has no folder named train: {kind.expected_layout}")
    names = subfolders(train)
    if not names:
        raise InputError(f"{train} holds no {kind.noun}: {kind.expected_layout}")
    if len(names) == 1:
        raise InputError(
            f"{train} holds only one class, {names[0]}, so there is nothing to classify: {kind.expected_layout}"
        )
    return names


def list_labelled(root: Path, split: Split, kind: ItemKind) -> tuple[list[str], Int64[Tensor, " N"]]:
    """The items of a labelled split and their labels, class by class.

    Args:
        root: folder of the data set.
        split: ``train`` or ``test``.
        kind: of the items.

    Returns:
        Paths of N items, and their labels, int64 ``[N]``: positions in :func:`class_names`.

    Raises:
        InputError: the folder is missing, is laid out in another way, or has no items.
    """
    classes, folder = subfolders(root / "train"), root / split
    if not folder.is_dir():
        raise InputError(f"{root} has no {split} split, a folder named {split}: {kind.expected_layout}")
    odd = [name for name in subfolders(folder) if name not in classes]
    if odd:
        raise InputError(f"{folder / odd[0]} is not a class of {root / 'train'}: rename it, or remove it.")
    loose = kind.list_loose(folder)
    if loose:
        raise InputError(f"{loose[0]} is not in a class folder, so it has no label: {kind.expected_layout}")
    found = [kind.list_items(folder / name) for name in classes]
    if split == "train" and not all(found):
        empty = classes[[len(items) for items in found].index(0)]
        raise InputError(f"{folder / empty} is a class without {kind.noun}: put {kind.noun} there, or remove it.")
    if not any(found):
        raise InputError(f"{folder} holds no {kind.noun}: {kind.expected_layout}")
    counts = torch.tensor([len(items) for items in found])
    return [item for items in found for item in items], torch.arange(len(classes)).repeat_interleave(counts)


def require_folder(root: Path, kind: ItemKind) -> None:
    """Raise :class:`InputError` unless ``root`` is a folder."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: set the source's root to the folder of your {kind.noun}.")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none if it does not exist.

    Hidden folders are left out, and so are links to ``folder`` itself or to a parent of it, which would be cycles.
    """
    if not folder.is_dir():
        return []
    real = folder.resolve()
    ancestors = {str(real), *map(str, real.parents)}
    visible = (item for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
    return sorted(item.name for item in visible if os.path.realpath(item.path) not in ancestors)


def list_images(folder: Path, deep: bool = True, arrays: bool = False) -> list[str]:
    """Paths of the images in ``folder``, and below it if ``deep``, by extension; sorted, without hidden files.

    - ``arrays``: whether arrays, ``.npy``, are images.
    """
    return list_files(folder, image_extensions(arrays), deep)


def list_files(folder: Path, endings: set[str], deep: bool) -> list[str]:
    """Paths of the files in ``folder``, and below it if ``deep``, with one of these extensions (lower case, with dot).

    Sorted, without hidden files. Links to folders are followed, except to one that ``folder`` is in; a folder reached
    by several paths is listed once, under the first.
    """
    found = (file for files in walk(folder, deep).values() for file in files)
    return sort_paths(file for file in found if extension(file) in endings)


def walk(folder: Path, deep: bool) -> dict[str, list[str]]:
    """As :func:`list_files`, for files of any kind: by the real path of the folder that holds them, unsorted.

    A link to a folder that ``folder`` is in is not followed: its images would count as images of ``folder``.
    """
    found: dict[str, list[str]] = {}
    above = set(map(str, Path(folder).resolve().parents))
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in above:
            folders.clear()
            continue
        # os.walk descends into what is left in this list, in its order.
        folders[:] = sorted(name for name in folders if deep and name[0] != "." and real not in found)
        found.setdefault(real, [os.path.join(parent, name) for name in names if name[0] != "."])
    return found


def sort_paths(paths: Iterable[str]) -> list[str]:
    """Sort by folder, then by name."""
    return sorted(paths, key=lambda path: path.split(os.sep))


def extension(file: str) -> str:
    """In lower case, with the dot; empty without one."""
    return os.path.splitext(file)[1].lower()
