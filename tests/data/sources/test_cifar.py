"""A small CIFAR from a local server: download, extraction, verification and errors."""

import hashlib
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch
from torchvision import datasets

from simmim_pl.contracts import InputError
from simmim_pl.data.sources import cifar
from simmim_pl.data.sources.cifar import CIFAR10, CIFAR100


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def miniature(folder, kind, monkeypatch):
    """Build an archive in the real format and set its checksums in torchvision's class."""
    inside = folder / kind.base_folder
    inside.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [name for name, _ in kind.train_list + kind.test_list]
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    images = {name: rng.integers(0, 256, (4, 3072), dtype=np.uint8) for name in names}
    labels = {name: rng.integers(0, 10, 4).tolist() for name in names}
    for name in names:
        (inside / name).write_bytes(pickle.dumps({"data": images[name], key: labels[name]}, protocol=2))
    meta = kind.meta["filename"]
    (inside / meta).write_bytes(pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(10)]}, protocol=2))
    archive = folder / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, arcname=kind.base_folder)
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[name, md5(inside / name)] for name, _ in getattr(kind, part)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(inside / meta)})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    return archive, images, labels


@pytest.fixture
def mini(tmp_path, monkeypatch):
    return miniature(tmp_path / "made", datasets.CIFAR10, monkeypatch)


@pytest.fixture
def server(server, mini):
    server.body = mini[0].read_bytes()
    return server


def source(server, root, *ways, timeout=0.4):
    return CIFAR10(str(root), mirrors=[server.address(way) for way in ways], timeout=timeout)


def test_images_and_labels_equal_the_archive(server, mini, tmp_path):
    cifar10 = source(server, tmp_path / "data", "fine")
    cifar10.prepare()
    train, test = cifar10.load("train"), cifar10.load("test")
    _, images, labels = mini
    expected = np.concatenate([images[f"data_batch_{i}"] for i in range(1, 6)]).reshape(20, 3, 32, 32)
    assert train.images.is_contiguous()
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.images, torch.from_numpy(expected))
    assert train.labels.tolist() == [label for i in range(1, 6) for label in labels[f"data_batch_{i}"]]
    assert torch.equal(test.images, torch.from_numpy(images["test_batch"].reshape(4, 3, 32, 32)))
    assert test.labels.tolist() == labels["test_batch"]
    assert cifar10.classes == [f"class {i}" for i in range(10)]


def test_cifar100_has_its_own_names(tmp_path, monkeypatch):
    archive, images, labels = miniature(tmp_path, datasets.CIFAR100, monkeypatch)
    cifar100 = CIFAR100(str(tmp_path / "data"), mirrors=[archive.as_uri()])
    cifar100.prepare()
    assert cifar100.load("train").labels.tolist() == labels["train"]
    assert torch.equal(cifar100.load("test").images, torch.from_numpy(images["test"].reshape(4, 3, 32, 32)))


def test_only_the_archive_and_its_files_remain(server, tmp_path):
    source(server, tmp_path / "data", "fine").prepare()
    assert server.asked == ["fine"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        datasets.CIFAR10.base_folder,
        datasets.CIFAR10.filename,
    ]


def test_a_failing_mirror_leaves_no_files_and_the_next_is_used(server, tmp_path):
    root = tmp_path / "data"
    with pytest.raises(InputError, match="cut off after"):
        source(server, root, "cut").prepare()
    assert list(root.iterdir()) == []
    source(server, root, "cut", "fine").prepare()
    assert len(source(server, root).load("train")) == 20


def test_complete_files_are_used_without_network_or_archive(server, tmp_path):
    source(server, tmp_path / "data", "fine").prepare()
    (tmp_path / "data" / datasets.CIFAR10.filename).unlink()
    server.asked.clear()
    again = source(server, tmp_path / "data", "fine")
    again.prepare()
    assert len(again.load("test")) == 4
    assert server.asked == []


def test_archive_put_there_by_hand_is_extracted(server, mini, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / datasets.CIFAR10.filename).write_bytes(mini[0].read_bytes())
    source(server, root, "fine").prepare()
    assert server.asked == []
    assert len(source(server, root).load("train")) == 20


def test_a_damaged_batch_is_extracted_again(server, tmp_path):
    root = tmp_path / "data"
    source(server, root, "fine").prepare()
    batch = root / datasets.CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:100])
    with pytest.raises(InputError, match="missing or incomplete"):
        source(server, root).load("train")
    source(server, root).prepare()
    assert len(source(server, root).load("train")) == 20


def test_leftovers_of_a_killed_run_are_never_trusted(server, mini, tmp_path):
    root = tmp_path / "data"
    name, half = datasets.CIFAR10.filename, mini[0].read_bytes()[:1000]
    (root / f"{name}.abc.part").mkdir(parents=True)
    for leftover in (name, f"{name}.part", f"{name}.abc.part/{name}"):
        (root / leftover).write_bytes(half)
    with pytest.raises(InputError, match="found there did not have the md5"):
        source(server, root, "missing").prepare()
    assert not (root / name).exists()
    source(server, root, "fine").prepare()
    assert (root / name).read_bytes() == mini[0].read_bytes()
    assert sorted(path.name for path in root.iterdir()) == [datasets.CIFAR10.base_folder, name]


def test_two_nodes_may_share_the_folder(server, tmp_path):
    both = [source(server, tmp_path / "data", "slow") for _ in range(2)]
    failures = []

    def run(node):
        try:
            node.prepare()
            assert len(node.load("train")) == 20
        except Exception as error:  # otherwise a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=run, args=(node,)) for node in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_slower_node_uses_the_files_of_a_faster_one(server, mini, tmp_path, monkeypatch):
    root = tmp_path / "data"

    def overtaken(archive, scratch):
        with tarfile.open(mini[0]) as tar:
            tar.extractall(root)
        raise FileNotFoundError(scratch)

    monkeypatch.setattr(cifar, "extract_archive", overtaken)
    source(server, root, "fine").prepare()
    assert len(source(server, root).load("train")) == 20


@pytest.mark.parametrize("root", ["a file/data", "a file", "/proc/simmim"])
def test_a_folder_that_cannot_be_written(server, tmp_path, root):
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match=r"cannot be written.*SIMMIM_DATA_DIR") as caught:
        source(server, tmp_path / root, "fine").prepare()
    assert str(tmp_path / root) in str(caught.value)
    assert server.asked == []


def test_a_read_only_folder(server, tmp_path):
    with pytest.raises(InputError, match=r"/proc/self/task cannot be written"):
        source(server, "/proc/self/task", "fine").prepare()


def test_a_full_disk_while_extracting(server, tmp_path, monkeypatch):
    def full(archive, scratch):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cifar, "extract_archive", full)
    with pytest.raises(InputError, match="No space left"):
        source(server, tmp_path / "data", "fine").prepare()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [datasets.CIFAR10.filename]


def test_load_before_prepare(tmp_path):
    with pytest.raises(InputError, match=r"cifar-10-batches-py is missing or incomplete"):
        CIFAR10(str(tmp_path)).load("train")


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.delenv("SIMMIM_DATA_DIR", raising=False)
    assert str(CIFAR10().files.root) == "data"
    monkeypatch.setenv("SIMMIM_DATA_DIR", str(tmp_path))
    assert CIFAR100().files.root == tmp_path
    assert "zenodo" in CIFAR10().files.mirrors[0]
    assert "toronto" in CIFAR10().files.mirrors[-1]
    # The published checksums of the archives, which the tests above replace.
    assert datasets.CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"
    assert datasets.CIFAR100.tgz_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
