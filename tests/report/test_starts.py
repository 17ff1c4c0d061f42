"""A run records every start."""

import json
from pathlib import Path

import pytest

from simmim_pl.contracts import InputError
from simmim_pl.report.starts import FILE_NAME, add_start, load_starts, record_end


def test_every_start_is_recorded_and_the_last_one_gets_its_end(tmp_path: Path) -> None:
    assert load_starts(tmp_path) == []
    record_end(tmp_path, 3)  # of none
    assert not (tmp_path / FILE_NAME).exists()
    add_start(tmp_path, {"device": "cpu × 1"})
    add_start(tmp_path, {"device": "cuda × 2"})
    record_end(tmp_path, 7)
    assert load_starts(tmp_path) == [{"device": "cpu × 1"}, {"device": "cuda × 2", "ended": 7}]


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", json.dumps("a")])
def test_an_invalid_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=r"run.json cannot be read \(.*delete it") as error:
        load_starts(tmp_path)
    assert "\n" not in str(error.value)
