"""Downloads from a local server that works, is slow or silent, truncates, sends wrong data, or is unreachable."""

import hashlib

import numpy as np
import pytest

from simmim_pl.contracts import InputError
from simmim_pl.data.files.download import download

BODY = np.random.default_rng(0).bytes(20_000)
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(server):
    server.body = BODY
    return server


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").mkdir()
    return tmp_path / "data/archive.tar.gz"


def get(archive, *mirrors):
    download(archive, MD5, list(mirrors), archive.parents[1] / "scratch", timeout=0.4)


@pytest.mark.parametrize("way", ["fine", "slow", "unsized"])
def test_the_first_working_mirror_is_used(server, archive, way):
    get(archive, server.address(way), server.address("fine"))
    assert server.asked == [way]
    assert archive.read_bytes() == BODY
    assert list(archive.parent.iterdir()) == [archive]


FAILURES = {
    "stalls": "no data for 0.4 s",
    "cut": "cut off after 10000 of 20000 bytes",
    "lies": f"sent a file whose md5 is not {MD5}",
    "missing": "404",
    "refuses": "refused",
}


@pytest.mark.parametrize("way", FAILURES)
def test_a_failing_mirror_leaves_no_files_and_the_next_is_used(server, archive, way):
    with pytest.raises(InputError, match=FAILURES[way]) as caught:
        get(archive, server.address(way))
    assert list(archive.parent.iterdir()) == []
    for part in (str(archive.parent), archive.name, "by hand", "data/folder.yaml", "data/shapes.yaml"):
        assert part in str(caught.value)
    get(archive, server.address(way), server.address("fine"))
    assert archive.read_bytes() == BODY


def test_every_failed_mirror_is_named_with_its_reason(server, archive):
    mirrors = [*map(server.address, ("cut", "missing", "refuses")), "not an address"]
    with pytest.raises(InputError) as caught:
        get(archive, *mirrors)
    said = str(caught.value).split("; ")
    for url, reason, part in zip(mirrors, ["cut off", "404", "refused", "unknown url"], said, strict=True):
        assert f"{url}: " in part
        assert reason in part


def test_missing_mirrors_are_reported(archive):
    with pytest.raises(InputError, match="no mirrors given"):
        get(archive)


def test_a_complete_file_is_not_downloaded_again(server, archive):
    archive.write_bytes(BODY)
    get(archive, server.address("fine"))
    assert server.asked == []


def test_a_file_with_another_checksum_is_replaced(server, archive):
    archive.write_bytes(BODY[:1000])
    with pytest.raises(InputError, match="found there did not have the md5"):
        get(archive, server.address("missing"))
    assert not archive.exists()
    archive.write_bytes(BODY[:1000])
    get(archive, server.address("fine"))
    assert archive.read_bytes() == BODY
