"""Different data sets have different digests, equal in every process."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.data.files.digest import digest, file_stats

values = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3))
tensors = st.tuples(
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sampled_from([(6,), (2, 3), (3, 2), (1, 6)]),
    st.sampled_from([torch.uint8, torch.int64]),
)


@given(one=st.lists(values, max_size=3), other=st.lists(values, max_size=3))
def test_different_values_have_different_digests(one: list, other: list) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


@given(one=tensors, other=tensors)
def test_tensor_digests_depend_on_type_shape_and_elements(one: tuple, other: tuple) -> None:
    made = [torch.tensor(elements, dtype=kind).view(shape) for elements, shape, kind in (one, other)]
    assert (digest(made[0]) == digest(made[1])) == (one == other)


def test_digests_separate_their_parts() -> None:
    one, two = torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)
    assert len({digest(one, two), digest(two, one), digest(torch.cat([one, two])), digest(one), digest(one, None)}) == 5
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc")}) == 3


def test_digests_ignore_memory_layout_and_accept_empty_tensors() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    assert digest(image.transpose(0, 2)) == digest(image.transpose(0, 2).contiguous()) != digest(image)
    assert len({digest(torch.empty(0)), digest(torch.empty(0, 3)), digest(torch.tensor(1.0))}) == 3


def test_digests_are_equal_in_another_process() -> None:
    code = "import torch; from simmim_pl.data.files.digest import digest; print(digest('a', torch.arange(5), None))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == digest("a", torch.arange(5), None)
    assert len(said) == 16


@pytest.mark.parametrize("change", ["size", "time", "name", "folder", "content"])
def test_file_digests_do_not_read_the_files(tmp_path, monkeypatch, change) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text("one")
        os.utime(tmp_path / folder / "x", ns=(5, 5))
    monkeypatch.chdir(tmp_path / "a")
    before = digest(file_stats(["x"]))
    assert before == digest(file_stats([str(tmp_path / "a/x")]))
    name = "x"
    if change == "size":
        (tmp_path / "a/x").write_text("three")
        os.utime("x", ns=(5, 5))
    elif change == "content":
        (tmp_path / "a/x").write_text("two")
        os.utime("x", ns=(5, 5))
    elif change == "time":
        os.utime("x", ns=(5, 6))
    elif change == "name":
        name = os.rename("x", "y") or "y"
    else:
        monkeypatch.chdir(tmp_path / "b")
    assert digest(file_stats([name])) != before
