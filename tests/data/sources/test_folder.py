"""Image folders: every layout, and errors for unusable ones."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from simmim_pl.contracts import InputError
from simmim_pl.data.sources.folder import Folder

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
    with pytest.raises(InputError, match=r"only one class, cat.*at least two classes"):
        Folder(str(tmp_path)).prepare()


def test_class_without_images(labelled):
    (labelled / "train/bee").mkdir()
    with pytest.raises(InputError, match="train/bee is a class without images"):
        Folder(str(labelled)).prepare()


def test_classes_at_the_top(tmp_path):
    for name in ("ant", "cat"):
        write(tmp_path / name / "a.png")
    refused(tmp_path, "train", "holds folders of images, but no folder named train")


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
