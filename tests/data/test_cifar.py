"""CIFAR from a local server that is fine, slow, silent, cut off, lying, missing or not there at all."""

import hashlib
import pickle
import socket
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torchvision import datasets

from simmim_pl.data import cifar
from simmim_pl.data.cifar import CIFAR10, CIFAR100
from simmim_pl.records import InputError


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def miniature(folder, kind, monkeypatch):
    """Build an archive in the real format and tell torchvision's class its checksums."""
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
    (inside / meta).write_bytes(
        pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(10)]}, protocol=2)
    )
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


class Mirror(BaseHTTPRequestHandler):
    """The first folder of the path says how the server behaves."""

    def do_GET(self):
        way = self.path.split("/")[1]
        self.server.asked.append(way)
        body = self.server.body
        if way == "missing":
            return self.send_error(404)
        if way == "lies":
            body = body[::-1]
        self.send_response(200)
        if way != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "slow":
            for piece in np.array_split(np.frombuffer(body, np.uint8), 6):
                self.wfile.write(piece.tobytes())
                self.wfile.flush()
                time.sleep(0.1)
        elif way == "stalls":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.done.wait(5)
        elif way == "cut":
            self.wfile.write(body[: len(body) // 2])
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(mini, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    server.body, server.asked, server.done = mini[0].read_bytes(), [], threading.Event()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()


def address(server, way):
    if way == "refuses":
        with socket.socket() as free:  # nobody listens on a port that was just given back
            free.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{free.getsockname()[1]}/cifar.tar.gz"
    return f"http://127.0.0.1:{server.server_port}/{way}/cifar.tar.gz"


def source(server, root, *ways, timeout=0.4):
    return CIFAR10(str(root), mirrors=[address(server, way) for way in ways], timeout=timeout)


def test_images_and_labels_are_those_of_the_archive(server, mini, tmp_path):
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


@pytest.mark.parametrize("way", ["fine", "slow", "unsized"])
def test_a_mirror_that_delivers(server, tmp_path, way):
    source(server, tmp_path / "data", way, "fine").prepare()
    assert server.asked == [way]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        datasets.CIFAR10.base_folder,
        datasets.CIFAR10.filename,
    ]


FAILURES = {
    "stalls": "no byte for 0.4 s",
    "cut": "cut off after",
    "lies": "another md5",
    "missing": "404",
    "refuses": "refused",
}


@pytest.mark.parametrize("way", FAILURES)
def test_a_mirror_that_fails_leaves_nothing_and_the_next_is_taken(server, tmp_path, way):
    root = tmp_path / "data"
    with pytest.raises(InputError, match=FAILURES[way]) as caught:
        source(server, root, way).prepare()
    assert list(root.iterdir()) == []
    said = str(caught.value)
    for part in (str(root), datasets.CIFAR10.filename, "by hand", "data/folder.yaml", "data/shapes.yaml"):
        assert part in said
    source(server, root, way, "fine").prepare()
    assert len(source(server, root).load("train")) == 20


def test_every_mirror_is_named_with_its_reason(server, tmp_path):
    broken = source(server, tmp_path, "cut", "missing", "refuses")
    broken.files.mirrors.append("not an address")
    with pytest.raises(InputError) as caught:
        broken.prepare()
    for url, reason in zip(broken.files.mirrors, ["cut off", "404", "refused", "unknown url"], strict=True):
        assert f"{url}: " in str(caught.value)
        assert reason in str(caught.value)


def test_no_mirrors_is_said(tmp_path, mini):
    with pytest.raises(InputError, match="no mirrors given"):
        CIFAR10(str(tmp_path / "data"), mirrors=[]).prepare()


def test_whole_files_are_used_without_network_or_archive(server, tmp_path):
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
    with pytest.raises(InputError, match="found there had another md5"):
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
        except Exception as error:  # a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=run, args=(node,)) for node in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_slower_node_accepts_the_work_of_a_faster_one(server, mini, tmp_path, monkeypatch):
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
    # The archives' published checksums, which the tests above replace.
    assert datasets.CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"
    assert datasets.CIFAR100.tgz_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
