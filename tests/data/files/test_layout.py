"""Class folders, here of text files."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simmim_pl.contracts import InputError
from simmim_pl.data.files.layout import ItemKind, class_names, list_files, list_labelled, subfolders

TEXTS = ItemKind(
    "texts",
    list_items=lambda folder: list_files(folder, {".txt"}, deep=True),
    list_loose=lambda folder: list_files(folder, {".txt"}, deep=False),
    expected_layout="sort the texts.",
)


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_every_file_has_the_label_of_its_folder(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    root = tmp_path_factory.mktemp("root")
    write(*(root / f"train/c{c}/deep/{i}.txt" for c, count in enumerate(counts) for i in range(count)))
    names = class_names(root, TEXTS)
    files, labels = list_labelled(root, "train", TEXTS)
    assert names == [f"c{c}" for c in range(len(counts))]
    assert files == sorted(files)
    assert [Path(file).parent.parent.name for file in files] == [names[label] for label in labels.tolist()]
    assert labels.bincount().tolist() == counts


def test_hidden_files_and_other_endings_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a/.x.txt", tmp_path / "a/x.md", tmp_path / ".b/x.txt", tmp_path / "a/y.TXT")
    assert list_files(tmp_path, {".txt"}, deep=True) == [str(tmp_path / "a/y.TXT")]
    assert list_files(tmp_path, {".txt"}, deep=False) == []
    assert subfolders(tmp_path) == ["a"]
    assert subfolders(tmp_path / "nowhere") == []


REFUSED = {
    "is not a folder: set the source's root to the folder of your texts": lambda root: root.rmdir(),
    "has no folder named train: sort the texts": lambda root: None,
    "train holds no texts: sort the texts": lambda root: (root / "train").mkdir(),
    "only one class, a": lambda root: write(root / "train/a/x.txt"),
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_root_without_classes_is_refused(tmp_path: Path, says: str) -> None:
    REFUSED[says](tmp_path)
    with pytest.raises(InputError, match=says):
        class_names(tmp_path, TEXTS)


ODD = {
    "train/c is a class without texts: put texts there": ("train", lambda root: (root / "train/c").mkdir()),
    "x.txt is not in a class folder": ("train", lambda root: write(root / "train/x.txt")),
    "has no test split": ("test", lambda root: None),
    "test/c is not a class of": ("test", lambda root: write(root / "test/c/x.txt")),
    "test holds no texts": ("test", lambda root: (root / "test").mkdir()),
}


@pytest.mark.parametrize("says", ODD)
def test_a_split_of_another_layout_is_refused(tmp_path: Path, says: str) -> None:
    write(tmp_path / "train/a/x.txt", tmp_path / "train/b/x.txt")
    split, spoil = ODD[says]
    spoil(tmp_path)
    with pytest.raises(InputError, match=says):
        list_labelled(tmp_path, split, TEXTS)


@pytest.mark.parametrize("target", [".", "..", "../..", "../b", "deep"])
def test_a_link_to_a_folder_does_not_duplicate_files(tmp_path: Path, target: str) -> None:
    write(tmp_path / "train/a/x.txt", tmp_path / "train/a/deep/y.txt", tmp_path / "train/b/z.txt")
    (tmp_path / "train/a/again").symlink_to(target, target_is_directory=True)
    found = [Path(file).resolve() for file in list_files(tmp_path / "train/a", {".txt"}, deep=True)]
    assert len(found) == len(set(found))
    below = {"x.txt", "y.txt"} | ({"z.txt"} if target == "../b" else set())  # links up are not followed
    assert {file.name for file in found} == below


def test_circular_links_are_handled(tmp_path: Path) -> None:
    write(tmp_path / "a/x.txt", tmp_path / "b/y.txt")
    (tmp_path / "a/to b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b/to a").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [Path(file).name for file in list_files(tmp_path / "a", {".txt"}, deep=True)] == ["y.txt", "x.txt"]


def test_a_link_to_a_parent_folder_is_not_a_class(tmp_path: Path) -> None:
    write(tmp_path / "train/a/x.txt", tmp_path / "train/b/y.txt", tmp_path / "elsewhere/z.txt")
    for name, target in {"itself": "train", "root": ".", "c": "elsewhere"}.items():
        (tmp_path / "train" / name).symlink_to(tmp_path / target, target_is_directory=True)
    assert subfolders(tmp_path / "train") == ["a", "b", "c"]
