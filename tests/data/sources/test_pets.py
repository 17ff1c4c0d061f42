"""A small Oxford-IIIT Pet: torchvision's layout, breeds and trimaps, the download, and errors."""

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from simmim_pl.contracts import InputError
from simmim_pl.data import OxfordPets

PETS = ["Abyssinian_1", "Abyssinian_2", "great_pyrenees_1", "great_pyrenees_10"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with four images of two breeds: the first and the last are train, the others test."""
    pets = tmp_path / "data/oxford-iiit-pet"
    (pets / "images").mkdir(parents=True)
    (pets / "annotations/trimaps").mkdir(parents=True)
    for number, name in enumerate(PETS):
        Image.new("RGB", (40, 30), (number * 50, 0, 0)).save(pets / f"images/{name}.jpg")
        trimap = np.full((30, 40), 2, np.uint8)
        trimap[8:22, 12:28] = 3
        trimap[10:20, 15:25] = 1
        Image.fromarray(trimap).save(pets / f"annotations/trimaps/{name}.png")
    (pets / "images/Abyssinian_1.mat").touch()
    (pets / "annotations/trimaps/._Abyssinian_1.png").touch()
    for split, rows in (("trainval", (0, 3)), ("test", (1, 2))):
        lines = [f"{PETS[i]} {1 + i // 2} {1 + i // 2} 1" for i in rows]
        (pets / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


@pytest.fixture
def archives(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two archives that replace the real ones, in their own folder."""
    folder, resources = data.parent / "mirror", []
    folder.mkdir()
    for part in ("images", "annotations"):
        archive = folder / f"{part}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(data / "oxford-iiit-pet" / part, arcname=part)
        resources.append((archive.as_uri(), hashlib.md5(archive.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", resources)
    shutil.rmtree(data)
    return folder


def test_images_labels_and_masks(data: Path) -> None:
    pets = OxfordPets(str(data), size=30)
    pets.prepare()  # uses no network: all files exist
    train, test = pets.load("train"), pets.load("test")
    assert datasets.OxfordIIITPet(data)._check_exists()
    assert pets.classes == ["Abyssinian", "Great Pyrenees"]
    assert pets.mask_classes == ["pet", "background", "border"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [0, 1])
    batch = train.__getitems__([0, 1])
    assert set(batch) == {"image", "label", "mask", "index"}
    assert [round(red / 50) for red in batch["image"][:, 0, 5, 5].tolist()] == [0, 3]
    assert batch["mask"].shape == (2, 30, 30)
    assert batch["mask"][0, 15, [0, 8, 15, 29]].tolist() == [1, 2, 0, 1]
    assert batch["mask"].unique().tolist() == [0, 1, 2]
    assert train.digest() == pets.load("train").digest() != test.digest()


def test_the_archives_are_downloaded_and_extracted_once(archives: Path, data: Path) -> None:
    pets = OxfordPets(str(data))
    (data / "oxford-iiit-pet/images.tar.gz.abc.part").mkdir(parents=True)  # left by a killed run
    pets.prepare()
    assert pets.load("train").images.shape == (2, 3, 64, 64)
    inside = ["annotations", "annotations.tar.gz", "images", "images.tar.gz"]
    assert sorted(path.name for path in (data / "oxford-iiit-pet").iterdir()) == inside
    shutil.rmtree(archives)
    pets.prepare()


def test_a_failed_download_names_the_folder_for_the_file(archives: Path, data: Path) -> None:
    (archives / "annotations.tar.gz").unlink()
    with pytest.raises(InputError, match=r"annotations\.tar\.gz is required in .*oxford-iiit-pet .*folder\.yaml"):
        OxfordPets(str(data)).prepare()
    with pytest.raises(InputError, match="oxford-iiit-pet is missing or incomplete"):
        OxfordPets(str(data)).load("train")


def test_archives_put_there_by_hand_are_extracted(archives: Path, data: Path) -> None:
    shutil.copytree(archives, data / "oxford-iiit-pet")
    shutil.rmtree(archives)
    OxfordPets(str(data)).prepare()
    assert len(OxfordPets(str(data)).load("test")) == 2


def test_a_slower_node_uses_the_files_of_a_faster_one(
    archives: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(archive: str, scratch: str) -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(data / "oxford-iiit-pet")
        raise FileNotFoundError(scratch)

    monkeypatch.setattr("simmim_pl.data.sources.pets.extract_archive", overtaken)
    OxfordPets(str(data)).prepare()
    assert len(OxfordPets(str(data)).load("test")) == 2


def test_a_folder_that_cannot_be_written_is_named(archives: Path, data: Path) -> None:
    data.touch()
    with pytest.raises(InputError, match=r"data/oxford-iiit-pet cannot be written.*SIMMIM_DATA_DIR"):
        OxfordPets(str(data)).prepare()


@pytest.mark.parametrize("gone", ["images/Abyssinian_1.jpg", "annotations/trimaps/Abyssinian_1.png"])
def test_a_missing_file_is_detected(data: Path, gone: str) -> None:
    (data / "oxford-iiit-pet" / gone).unlink()
    with pytest.raises(InputError, match=r"oxford-iiit-pet is missing or incomplete: remove its folders"):
        OxfordPets(str(data)).load("train")


@pytest.mark.parametrize("damage", ["", "Abyssinian_1 one\n"])
def test_damaged_lists_are_refused(data: Path, damage: str) -> None:
    (data / "oxford-iiit-pet/annotations/trainval.txt").write_text(damage)
    with pytest.raises(InputError, match="oxford-iiit-pet is missing or incomplete"):
        OxfordPets(str(data)).load("train")


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIMMIM_DATA_DIR", str(tmp_path))
    assert OxfordPets().folder == tmp_path / "oxford-iiit-pet"
    assert [Path(url).name for url, _ in datasets.OxfordIIITPet._RESOURCES] == ["images.tar.gz", "annotations.tar.gz"]
    with pytest.raises(InputError, match="size has to be 1 or more, and is 0"):
        OxfordPets(size=0)
