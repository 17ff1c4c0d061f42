"""A table is read row group by row group; one that is not of predict is refused with a sentence."""

import errno
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from simmim_pl.callbacks.embeddings_file import EmbeddingsFile, table
from simmim_pl.contracts import InputError
from simmim_pl.neighbours import table as tables
from simmim_pl.neighbours.table import read_table
from simmim_pl.runtime.atomic import WriteError


def write(place: Path, features: np.ndarray, **columns: Any) -> Path:
    file = EmbeddingsFile(place)
    known = {"split": ["test"] * len(features), "index": [*range(len(features))], **columns}
    file.add(table(known, features.astype(np.float32)))
    file.close()
    return place


def test_features_are_mapped_from_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(10_000, 7)).astype(np.float32)
    path = write(tmp_path / "e.parquet", features, path=[f"{number}.png" for number in range(10_000)])
    written, append = [], tables.append

    def spy(file: Any, column: Any, width: int) -> int:
        written.append(len(column))
        return append(file, column, width)

    monkeypatch.setattr(tables, "append", spy)
    found = read_table(path, tmp_path)
    assert max(written) <= 4096  # rows in memory at once
    assert sum(written) == len(found) == 10_000
    if sys.platform == "linux":  # where a process can see what it has mapped
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert torch.equal(found.features, torch.from_numpy(features))
    assert [file.name for file in tmp_path.iterdir()] == ["e.parquet"]
    assert (found.name(3), found.value("label", 3)) == ("3.png", None)
    assert read_table(write(tmp_path / "f.parquet", features[:2]), tmp_path).name(1) == "test 1"


def test_what_is_no_table_of_embeddings_is_refused(tmp_path: Path) -> None:
    bad = np.ones((5, 3))
    bad[1], bad[3, 2] = np.nan, np.inf
    path = tmp_path / "e.parquet"
    with pytest.raises(InputError, match=r"2 of the 5 rows of .* missing, NaN or infinite"):
        read_table(write(path, bad), tmp_path)
    with pytest.raises(InputError, match="has no rows"):
        read_table(write(path, np.ones((0, 3))), tmp_path)
    parquet.write_table(pa.table({"split": ["test"], "index": [0]}), path)
    with pytest.raises(InputError, match=r"has no column features: give the embeddings\.parquet"):
        read_table(path, tmp_path)
    parquet.write_table(pa.table({"split": ["test"], "index": [0], "features": [[1.0, 2.0]]}), path)
    with pytest.raises(InputError, match=r"are list<.*>, not lists of numbers of one length"):
        read_table(path, tmp_path)
    whole = write(path, np.ones((500, 30))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"e\.parquet cannot be read as Parquet"):
        read_table(path, tmp_path)


def test_a_full_disk_is_told_from_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "e.parquet", np.ones((5, 3)))

    class Full(tempfile.SpooledTemporaryFile):
        def write(self, *_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(WriteError, match="No space left on device"):
        read_table(path, tmp_path)
