"""Class folders: ``train/<class>/`` and ``test/<class>/``, whatever a class holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data.files.decode import endings
from simmim_pl.data.source import Split


@dataclass(frozen=True)
class Kind:
    """What class folders hold: how it is found, and the words for it."""

    noun: str  # plural
    find: Callable[[Path], list[str]]  # all of one class, given its folder; sorted
    loose: Callable[[Path], list[str]]  # those directly in a folder that should hold class folders
    ways: str  # how the folder has to be laid out


def class_names(root: Path, kind: Kind) -> list[str]:
    """Names of the classes: the folders in ``train``, at least two. Raises :class:`InputError`."""
    require_folder(root, kind)
    train = root / "train"
    if not train.is_dir():
        raise InputError(f"{root} has no folder named train: {kind.ways}")
    names = subfolders(train)
    if not names:
        raise InputError(f"{train} holds no {kind.noun}: {kind.ways}")
    if len(names) == 1:
        raise InputError(f"{train} holds a single class, {names[0]}, which is nothing to tell apart: {kind.ways}")
    return names


def labelled(root: Path, split: Split, kind: Kind, folder: Path | None = None) -> tuple[list[str], Int64[Tensor, " N"]]:
    """What a labelled split holds and its labels, class by class; it lies in ``folder``, by default its namesake.

    Raises :class:`InputError`.
    """
    classes, folder = subfolders(root / "train"), folder or root / split
    if not folder.is_dir():
        raise InputError(f"{root} has no {split} split, a folder named {split}: {kind.ways}")
    odd = [name for name in subfolders(folder) if name not in classes]
    if odd:
        raise InputError(f"{folder / odd[0]} is no class of {root / 'train'}: rename it, or remove it.")
    loose = kind.loose(folder)
    if loose:
        raise InputError(f"{loose[0]} lies beside the class folders, so it has no label: {kind.ways}")
    found = [kind.find(folder / name) for name in classes]
    if split == "train" and not all(found):
        empty = classes[[len(items) for items in found].index(0)]
        raise InputError(f"{folder / empty} is a class without {kind.noun}: put {kind.noun} there, or remove it.")
    if not any(found):
        raise InputError(f"{folder} holds no {kind.noun}: {kind.ways}")
    counts = torch.tensor([len(items) for items in found])
    return [item for items in found for item in items], torch.arange(len(classes)).repeat_interleave(counts)


def require_folder(root: Path, kind: Kind) -> None:
    """Raise :class:`InputError` unless ``root`` is a folder."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the source's root the folder of your {kind.noun}.")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none when it does not exist.

    Left out are hidden ones, and links to the folder itself or to one that it lies in, which would hold all over again.
    """
    if not folder.is_dir():
        return []
    real = folder.resolve()
    around = {str(real), *map(str, real.parents)}
    shown = (item for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
    return sorted(item.name for item in shown if os.path.realpath(item.path) not in around)


def images_in(folder: Path, deep: bool = True) -> list[str]:
    """Images in ``folder``, and below it when ``deep``, by their extension: sorted, hidden ones left out."""
    return files_in(folder, endings(), deep)


def files_in(folder: Path, endings: set[str], deep: bool) -> list[str]:
    """Files with one of these extensions in ``folder``, and below it when ``deep``: sorted, hidden ones left out.

    Links to folders are followed; a folder that several paths lead to is read once, by the first of them in order.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        # Editing the list in place is how os.walk is told where not to go, and in which order.
        folders[:] = sorted(name for name in folders if deep and name[0] != "." and real not in seen)
        if real not in seen:
            found += [Path(parent, n) for n in names if n[0] != "." and os.path.splitext(n)[1].lower() in endings]
        seen.add(real)
    return [str(path) for path in sorted(found)]
