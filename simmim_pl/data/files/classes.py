"""Whether folders are classes: what a layout says, or the user."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

from simmim_pl.contracts import InputError
from simmim_pl.data.files.layout import subfolders
from simmim_pl.data.files.tree import Tree, describe_others, read_tree, shortened

LAYOUTS = (
    "for labels, sort the images into train/CLASS/ and test/CLASS/ (or val/CLASS/), or into CLASS/ without a test "
    "split, at least two classes; to train without labels, put them into train/ or anywhere in the folder."
)
HELD_OUT = ("test", "val", "valid", "validation")  # folders that are no classes, in any case


def read_train(root: Path, arrays: bool = False) -> Tree:
    """The training images of a root: in its folder ``train``, or else all. Raises :class:`InputError` without any.

    - ``arrays``: whether arrays, ``.npy``, are images.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: set the source's root to the folder of your images.")
    tree = read_tree(root / "train" if (root / "train").is_dir() else root, arrays)
    if not tree.loose and not tree.named():
        others = f" but {describe_others(tree.others)}" if tree.others else ""
        raise InputError(f"{tree.folder} holds no images{others}: {LAYOUTS}")
    return tree


def require_apart(roots: list[Path]) -> None:
    """Raise :class:`InputError` if a root is in another, or is another."""
    for (root, real), (other, other_real) in permutations([(root, root.resolve()) for root in roots], 2):
        if other_real in (real, *real.parents):
            raise InputError(f"{root} is in {other}, so its images would be read twice: remove one of them from root.")


def class_folders(root: Path, tree: Tree, labels: bool | None) -> list[str]:
    """Names of the folders of a root that are classes; none if its images have no labels.

    Args:
        root: the root.
        tree: its training images, by :func:`read_train`.
        labels: whether folders are classes. ``None``: the folders in ``train`` are, if there are two or more. Without
            a folder ``train``, two or more folders are if there is no image beside them, and if one's name has a
            letter: the others are dates or numbers.

    Raises:
        InputError: the layout contradicts ``labels``, or is ambiguous.
    """
    if labels is False:
        return []
    named, declared = tree.named(), tree.folder != root
    apart = [name for name in named if name.lower() in HELD_OUT]
    if apart and not declared:
        raise InputError(
            f"{root} holds a folder named {apart[0]}, and no folder named train: {LAYOUTS} With labels set to false "
            "all of them are trained on."
        )
    if declared:
        named = subfolders(tree.folder) if named else []
    if labels is None:
        if declared and tree.loose and named:
            raise InputError(
                f"{tree.folder} holds both images and a folder of images, {named[0]}: {LAYOUTS} With labels set to "
                "false all of them are read."
            )
        clear = declared or (lettered(named) and not tree.loose)
        return named if clear and len(named) > 1 else []
    if tree.loose:
        raise InputError(f"{tree.loose[0]} is not in a class folder, so it has no label: {LAYOUTS}")
    return named


def lettered(names: list[str]) -> bool:
    """Whether any name has a letter.

    >>> lettered(["2024", "2024-01-03"]), lettered(["7", "cat"])
    (False, True)
    """
    return any(character.isalpha() for name in names for character in name)


def require_classes(trees: list[Tree], classes: list[str]) -> None:
    """Raise :class:`InputError` unless there are two classes with images."""
    folders = shortened([str(tree.folder) for tree in trees])
    if len(classes) < 2:
        raise InputError(
            f"{folders} holds only one class, {classes[0]}, so there is nothing to classify: sort the images into at "
            "least two classes; with labels set to false they can be trained on."
        )
    empty = [name for name in classes if not any(tree.of(name) for tree in trees)]
    if empty:
        raise InputError(f"{trees[0].folder / empty[0]} is a class without images: put images there, or remove it.")


def read_test(roots: list[Path], train: list[Tree], classes: list[str], arrays: bool = False) -> list[Tree]:
    """The labelled test images of each root that has any: in ``test``, or else in ``val``, as in ImageNet.

    Raises:
        InputError: a folder is laid out in another way, or none holds an image.
    """
    trees = [read_tree(folder, arrays) for folder in map(test_folder_of, roots) if folder]
    for tree in trees:
        odd = [name for name in tree.images if name not in classes]
        if odd:
            of = shortened([str(each.folder) for each in train])
            raise InputError(f"{tree.folder / odd[0]} is not a class of {of}: rename it, or remove it.")
        if tree.loose:
            raise InputError(f"{tree.loose[0]} is not in a class folder, so it has no label: {LAYOUTS}")
    if trees and not any(tree.named() for tree in trees):
        raise InputError(f"{trees[0].folder} holds no images: {LAYOUTS}")
    return trees


def test_folder_of(root: Path) -> Path | None:
    """The folder of a root's test split: ``test``, else ``val`` if it holds folders; beside a folder ``train`` only."""
    test, val = root / "test", root / "val"
    if not (root / "train").is_dir():
        return None
    return test if test.is_dir() else val if subfolders(val) else None


def beside_train(root: Path, labelled: bool) -> list[str]:
    """The folders of a root that are not read because one is named ``train``; that of the test split is read."""
    if not (root / "train").is_dir():
        return []
    read = (root / "train", test_folder_of(root) if labelled else None)
    return [str(root / name) for name in subfolders(root) if root / name not in read]
