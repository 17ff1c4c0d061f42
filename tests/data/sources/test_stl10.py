"""A small STL-10: torchvision's files, folds, the download, and errors."""

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from simmim_pl.contracts import InputError
from simmim_pl.data import STL10, ImageDataModule

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with 40 labelled, 20 test and 30 unlabelled images, and ten folds of eight."""
    files, rng = tmp_path / "data/stl10_binary", np.random.default_rng(0)
    files.mkdir(parents=True)
    for part, number in (("train", 40), ("test", 20), ("unlabeled", 30)):
        rng.integers(0, 256, (number, 3, 96, 96), dtype=np.uint8).tofile(files / f"{part}_X.bin")
        if part != "unlabeled":
            (1 + np.arange(number) % 10).astype(np.uint8).tofile(files / f"{part}_y.bin")
    (files / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    folds = [" ".join(str(row) for row in sorted(rng.permutation(40)[:8])) for _ in range(10)]
    (files / "fold_indices.txt").write_text("\n".join(folds) + "\n")
    return tmp_path / "data"


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> type:
    """torchvision's class, which checks the real files' checksums."""
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    return datasets.STL10


@pytest.mark.parametrize("fold", [None, 0, 7])
def test_labelled_images_equal_torchvision(data: Path, theirs: type, fold: int | None) -> None:
    source = STL10(str(data), fold=fold)
    source.prepare()  # uses no network: all files exist
    for split in ("train", "test"):
        ours, reference = source.load(split), theirs(str(data), split, folds=fold)  # type: ignore[arg-type]
        batch = ours.__getitems__(list(range(len(ours))))
        assert torch.equal(batch["image"], torch.from_numpy(reference.data.copy()))
        assert batch["label"].tolist() == reference.labels.tolist()
        assert source.classes == reference.classes == CLASSES
    assert len(source.load("train")) == (40 if fold is None else 8)
    assert source.name == ("STL10" if fold is None else f"STL10, fold {fold}")


def test_the_folds_equal_torchvision(data: Path, theirs: type) -> None:
    source = STL10(str(data))
    train = source.load("train")
    assert len(source.folds) == 10
    for fold, rows in enumerate(source.folds):
        reference = theirs(str(data), "train", folds=fold)
        assert torch.equal(train.read(rows), torch.from_numpy(reference.data.copy()))
    assert STL10(str(data), fold=3).folds == STL10(str(data), train="unlabelled").folds == []


def test_unlabelled_images_equal_torchvision_and_have_no_label(data: Path, theirs: type) -> None:
    source = STL10(str(data), train="unlabelled")
    train = source.load("train")
    assert (train.labels, source.classes, len(train)) == (None, [], 30)
    assert set(train.__getitems__([3])) == {"image", "index"}
    order = torch.randperm(30)
    assert torch.equal(train.read(order), torch.from_numpy(theirs(str(data), "unlabeled").data.copy())[order])
    assert len(source.load("test")) == 20


def test_splits_and_folds_have_different_digests(data: Path) -> None:
    digests = {STL10(str(data), fold=fold).load("train").digest() for fold in (None, 0, 1)}
    assert len(digests | {STL10(str(data), train="unlabelled").load("train").digest()}) == 4


def test_the_datamodule_gives_batches(data: Path) -> None:
    images = ImageDataModule(STL10(str(data)), batch_size=8, validation=10)
    images.prepare_data()
    images.setup("fit")
    batch = next(iter(images.val_dataloader()))
    assert batch["image"].shape == (8, 3, 96, 96)


def test_it_is_downloaded_and_extracted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = data.parent / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(data / "stl10_binary", arcname="stl10_binary")
    monkeypatch.setattr(datasets.STL10, "url", archive.as_uri())
    monkeypatch.setattr(datasets.STL10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    before = STL10(str(data)).load("train").digest()
    shutil.rmtree(data)
    source = STL10(str(data))
    with pytest.raises(InputError, match="stl10_binary is missing or incomplete"):
        source.load("train")
    source.prepare()
    assert source.load("train").digest() == before


@pytest.mark.parametrize("file", ["train_X.bin", "test_y.bin", "unlabeled_X.bin", "fold_indices.txt"])
def test_a_missing_or_truncated_file_is_downloaded_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    path = data / "stl10_binary" / file
    path.unlink() if file.endswith("txt") else path.write_bytes(path.read_bytes()[:-1])
    source = STL10(str(data), timeout=1)
    monkeypatch.setattr(datasets.STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    with pytest.raises(InputError, match=r"stl10_binary\.tar\.gz is required .* could not be downloaded"):
        source.prepare()
    with pytest.raises(InputError, match="missing or incomplete"):
        source.load("train")


@pytest.mark.parametrize(("train", "fold"), [("labelled", 10), ("labelled", -1), ("unlabelled", 0)])
def test_an_invalid_fold_is_refused(train: str, fold: int) -> None:
    with pytest.raises(InputError, match=r"fold has to be within \[0, 9\]|folds are of the labelled"):
        STL10(train=train, fold=fold)  # type: ignore[arg-type]
