"""Image folders: every layout, and errors for unusable ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from simmim_pl.contracts import InputError
from simmim_pl.data.sources.folder import Folder
from tests.conftest import SHAPES, TINY

RGB = (200, 100, 40)


def write(path, colour=RGB, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def labelled(tmp_path):
    """Three train images of two classes and two test images, identified by their red channel."""
    write(tmp_path / "train/cat/b.png", (2, 0, 0))
    write(tmp_path / "train/cat/deep/down/c.PNG", (3, 0, 0))
    write(tmp_path / "train/cat/a.bmp", (1, 0, 0))
    write(tmp_path / "train/ant/z.png", (4, 0, 0))
    write(tmp_path / "test/cat/a.png", (5, 0, 0))
    write(tmp_path / "test/ant/a.png", (6, 0, 0))
    write(tmp_path / "train/cat/.hidden.png")
    write(tmp_path / "train/cat/.cache/a.png")
    write(tmp_path / "train/.thumbs/a.png")
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    return tmp_path


def reds(images):
    return images.read(torch.arange(len(images)))[:, 0, 0, 0].tolist()


@pytest.fixture
def printed(monkeypatch):
    """The lines that are printed."""
    lines = []
    monkeypatch.setattr("simmim_pl.data.sources.folder.rank_zero_info", lines.append)
    return lines


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_labelled_layout_is_read_in_fixed_order(labelled, memory_gb):
    folder = Folder(str(labelled), memory_gb=memory_gb)
    folder.prepare()
    train, test = folder.load("train"), folder.load("test")
    assert folder.classes == ["ant", "cat"]
    assert (reds(train), train.labels.tolist()) == ([4, 1, 2, 3], [0, 1, 1, 1])
    assert (reds(test), test.labels.tolist()) == ([6, 5], [0, 1])
    assert train.workers is test.workers is (memory_gb == 0)


@pytest.mark.parametrize("place", [".", "train"])
@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_unlabelled_layouts(tmp_path, place, memory_gb):
    for i in (3, 1, 2):
        write(tmp_path / place / f"{i}.png", (i, 0, 0))
    folder = Folder(str(tmp_path), memory_gb=memory_gb)
    folder.prepare()
    train = folder.load("train")
    assert (reds(train), train.labels, folder.classes) == ([1, 2, 3], None, [])
    assert set(train.__getitems__([0, 2])) == {"image", "index"}
    with pytest.raises(InputError, match="without labels, so it has no test split"):
        folder.load("test")


def test_memory_and_disk_give_identical_batches(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / f"train/class{i % 2}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 90 - 2 * i, 3), dtype=np.uint8)).save(path)
    memory, disk = (Folder(str(tmp_path), size=24, memory_gb=gb).load("train") for gb in (4.0, 0.0))
    assert (memory.workers, disk.workers) == (False, True)
    assert len(memory) == len(disk) == 20
    for indices in ([0, 1, 2], [19, 0, 7, 7]):
        one, other = memory.__getitems__(indices), disk.__getitems__(indices)
        assert one.keys() == other.keys() == {"image", "index", "label"}
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert one["image"].shape == (len(indices), 3, 24, 24)


def test_the_memory_limit_is_in_bytes(labelled):
    exactly = 4 * 3 * 32 * 32 / 1e9
    assert not Folder(str(labelled), memory_gb=exactly).load("train").workers
    assert Folder(str(labelled), memory_gb=exactly * 0.999).load("train").workers


def test_workers_decode_the_same(labelled):
    disk = Folder(str(labelled), memory_gb=0).load("train")
    loader = DataLoader(disk, batch_size=3, num_workers=1, collate_fn=lambda batch: batch)
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 1], [1]]


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_damaged_image_is_named_wherever_it_is_decoded(labelled, memory_gb):
    (labelled / "train/cat/b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.png cannot be read as an image"):
        Folder(str(labelled), memory_gb=memory_gb).load("train").read(torch.tensor([2]))


def refused(root, split, match):
    with pytest.raises(InputError, match=match):
        Folder(str(root)).load(split)


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", "train", "nowhere is not a folder")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        Folder(str(tmp_path / "nowhere")).prepare()


@pytest.mark.parametrize("layout", [".", "train", "train/cat"])
def test_empty_folder(tmp_path, layout):
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match=r"holds no images: .*train/CLASS/"):
        Folder(str(tmp_path)).prepare()


def test_single_class(tmp_path):
    write(tmp_path / "train/cat/a.png")
    with pytest.raises(InputError, match=r"only one class, cat.*at least two classes; with labels set to false"):
        Folder(str(tmp_path), labels=True).prepare()
    refused(tmp_path, "test", "only one class, cat")
    for labels in (None, False):
        assert Folder(str(tmp_path), labels=labels).load("train").labels is None


def test_class_without_images(labelled):
    (labelled / "train/bee").mkdir()
    with pytest.raises(InputError, match="train/bee is a class without images"):
        Folder(str(labelled)).prepare()


def test_classes_at_the_top(tmp_path):
    for name, red in (("cat", 2), ("ant", 1)):
        write(tmp_path / name / "a.png", (red, 0, 0))
    folder = Folder(str(tmp_path))
    train = folder.load("train")
    assert (reds(train), train.labels.tolist(), folder.classes) == ([1, 2], [0, 1], ["ant", "cat"])
    assert not folder.has_test()
    refused(tmp_path, "test", r"has no test split, a folder named test .*simmim_pl\.data\.HeldOut")
    write(tmp_path / "Test/a.png")
    refused(tmp_path, "train", r"holds a folder named Test, and no folder named train: .* labels set to false")
    assert len(Folder(str(tmp_path), labels=False).load("train")) == 3


DATES = {
    "days": ["2024-01-03/a.png", "2024-01-04/b.png"],
    "years and months": ["2023/12/a.png", "2024/01/03/b.png"],
    "beside images": ["a.png", "holiday/b.png"],
    "one folder": ["holiday/sea/a.png", "holiday/b.png"],
}


@pytest.mark.parametrize("name", DATES)
def test_folders_that_are_no_classes_are_walked(tmp_path, name, printed):
    for path in DATES[name]:
        write(tmp_path / path)
    folder = Folder(str(tmp_path))
    folder.prepare()
    train = folder.load("train")
    assert (len(train), train.labels, folder.classes) == (2, None, [])
    (line,) = printed
    assert f"{tmp_path.name}: 2 images in 2 folders, without labels" in line
    assert ("with its labels set to true the folders 202" in line) == (name in list(DATES)[:2])


def test_folders_are_classes_if_the_user_says_so(tmp_path, printed):
    for path in DATES["days"]:
        write(tmp_path / path)
    folder = Folder(str(tmp_path), labels=True)
    assert folder.load("train").labels.tolist() == [0, 1]
    assert folder.classes == ["2024-01-03", "2024-01-04"]
    write(tmp_path / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png is not in a class folder"):
        folder.load("train")


def test_without_labels_train_is_walked_at_any_depth_and_test_is_not_read(labelled, printed):
    write(labelled / "train/stray.png", (9, 0, 0))
    folder = Folder(str(labelled), labels=False)
    folder.prepare()
    assert reds(folder.load("train")) == [4, 1, 2, 3, 9]  # sorted by folder, then by name
    assert not folder.has_test()
    with pytest.raises(InputError, match="without labels, so it has no test split"):
        folder.load("test")


def test_what_was_found_is_printed_with_the_files_that_are_no_images(labelled, printed):
    (labelled / "train/ant/Thumbs.db").touch()
    (labelled / "test/cat/LICENSE").touch()
    Folder(str(labelled)).prepare()
    name = labelled.name
    assert printed == [
        f"{name}: 4 images of 2 classes (ant, cat).",
        "Left out 3 files that are no images: LICENSE, Thumbs.db, notes.txt (without extension 1, .db 1, .txt 1).",
    ]
    del printed[:]
    Folder(str(labelled / "train")).prepare()
    assert printed[0] == (
        "train: 4 images of 2 classes (ant, cat); with its labels set to false they are read without labels."
    )


def test_several_roots_are_read_as_one(labelled, tmp_path_factory):
    more = tmp_path_factory.mktemp("more")
    write(more / "train/bee/a.png", (7, 0, 0))
    write(more / "train/cat/a.png", (8, 0, 0))
    folder = Folder([str(labelled), str(more)])
    folder.prepare()
    train, test = folder.load("train"), folder.load("test")
    assert folder.classes == ["ant", "bee", "cat"]
    assert (reds(train), train.labels.tolist()) == ([4, 7, 1, 2, 3, 8], [0, 1, 2, 2, 2, 2])
    assert (reds(test), test.labels.tolist()) == ([6, 5], [0, 2])
    assert reds(Folder([str(more), str(labelled)], labels=False).load("train")) == [7, 8, 4, 1, 2, 3]
    assert folder.name == f"{labelled.name}, {more.name}"


def test_roots_that_overlap_are_refused(labelled):
    (labelled.parent / "link").symlink_to(labelled)
    for other in (labelled, labelled / "train", labelled.parent / "link"):
        with pytest.raises(InputError, match=r"would be read twice: remove one of them from root"):
            Folder([str(labelled), str(other)]).prepare()
    with pytest.raises(InputError, match="root is an empty list"):
        Folder([])


def test_images_behind_links_are_read_once_without_labels(tmp_path):
    write(tmp_path / "2024/a.png")
    write(tmp_path / "2025/b.png")
    (tmp_path / "2024/all").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "2026").symlink_to(tmp_path / "2024", target_is_directory=True)
    assert len(Folder(str(tmp_path)).load("train")) == 2


def test_the_command_line_takes_several_roots_without_labels(cli, caplog):
    for number in range(12):
        write(Path(f"one/2024/{number % 3}/{number}.png"), (number, 0, 0), (16, 16))
        write(Path(f"two/{number}.png"), (100 + number, 0, 0), (16, 16))
    data = ["--data.source=simmim_pl.data.Folder", "--data.source.root=[one, two]", "--data.source.labels=false"]
    data += ["--data.source.size=16", "--data.batch_size=8", "--data.validation=4", "--trainer.max_epochs=1"]
    config = yaml.safe_load((cli([*(arg for arg in TINY if arg not in SHAPES), *data]) / "config.yaml").read_text())
    assert config["data"]["init_args"]["source"]["init_args"]["root"] == ["one", "two"]
    assert "one, two: 24 images in 4 folders, without labels.\n" in caplog.text


def test_images_beside_class_folders(labelled):
    write(labelled / "train/stray.png")
    refused(labelled, "train", "holds both images and a folder of images, ant")


def test_test_class_that_is_not_a_train_class(labelled):
    write(labelled / "test/dog/a.png")
    with pytest.raises(InputError, match="test/dog is not a class of"):
        Folder(str(labelled)).prepare()


def test_test_images_without_a_class(labelled):
    write(labelled / "test/stray.png")
    refused(labelled, "test", r"stray\.png is not in a class folder")


def test_no_test_split(labelled):
    (labelled / "test").rename(labelled / "later")
    Folder(str(labelled)).prepare()
    refused(labelled, "test", "has no test split, a folder named test")


def test_empty_test_split(labelled):
    for name in ("cat", "ant"):
        (labelled / "test" / name / "a.png").unlink()
    refused(labelled, "test", "test holds no images")


def test_size_of_nothing(tmp_path):
    with pytest.raises(InputError, match="size has to be 1 or more, and is 0"):
        Folder(str(tmp_path), size=0)


def test_val_is_the_test_split_if_there_is_no_test_folder(labelled):
    (labelled / "test").rename(labelled / "val")
    folder = Folder(str(labelled))
    folder.prepare()
    val = folder.load("test")
    assert (reds(val), val.labels.tolist()) == ([6, 5], [0, 1])
    write(labelled / "test/cat/a.png", (9, 0, 0))
    assert reds(Folder(str(labelled)).load("test")) == [9]


def test_a_val_folder_without_classes_is_not_a_test_split(labelled):
    (labelled / "test").rename(labelled / "elsewhere")
    write(labelled / "val/loose.png")
    folder = Folder(str(labelled))
    folder.prepare()
    with pytest.raises(InputError, match="has no test split, a folder named test"):
        folder.load("test")


def test_a_link_out_of_a_class_does_not_put_other_classes_in_it(tmp_path):
    for red, name in enumerate(("ant", "cat")):
        write(tmp_path / name / "a.png", (red, 0, 0))
    (tmp_path / "cat/all").symlink_to(tmp_path, target_is_directory=True)
    train = Folder(str(tmp_path)).load("train")
    assert (reds(train), train.labels.tolist()) == ([0, 1], [0, 1])


def test_folders_beside_train_are_left_out_with_a_message(labelled, printed):
    write(labelled / "plane/a.png")
    Folder(str(labelled)).prepare()
    assert f"Left out folders beside train: {labelled / 'plane'}." in printed
    Folder(str(labelled), labels=False).prepare()
    assert f"Left out folders beside train: {labelled / 'plane'}, {labelled / 'test'}." in printed
