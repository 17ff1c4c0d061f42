"""YAML with exponential aliases is refused before it is built, wherever it is from."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.contracts import InputError
from simmim_pl.report.run import load_run
from simmim_pl.runtime.yaml_schema import MAX_VALUES, load, parse, require_config_size
from tests.conftest import TINY
from tests.test_bad_input import refusal  # noqa: F401, a fixture

LAUGHS = "a: &a [x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 4)}]\n" for before, name in pairwise("abcdefghijklm")
)
assert len(LAUGHS) < 400


def test_a_short_yaml_with_many_values_is_refused() -> None:
    with pytest.raises(InputError, match="more than 10000 values once its aliases are written out"):
        parse(LAUGHS)
    with pytest.raises(InputError, match="levels"):
        parse("[" * 101 + "]" * 101)
    with pytest.raises(yaml.YAMLError):
        parse("a: [*nowhere]" + " " * 100)


@pytest.mark.parametrize("text", ["2024-02-30", "!!bool foo", "!!timestamp x", "!!int ''"])
def test_a_value_of_a_wrong_type_is_not_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {text}")
    with pytest.raises(InputError, match=r"x.yaml is not YAML \(.+\): correct it"):
        load(tmp_path / "x.yaml")
    require_config_size({"class_path": "simmim_pl.encoders.FastCNN", "init_args": {"width": text}}, "x.ckpt")


def test_ordinary_aliases_are_accepted() -> None:
    text = "common: &common {lr: 0.1, betas: [0.9, 0.99]}\n" + "".join(f"run{i}: {{<<: *common}}\n" for i in range(99))
    assert parse(text) == yaml.safe_load(text)


@given(
    st.recursive(st.integers() | st.text("ab"), lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner))
)
def test_yaml_without_aliases_is_read(value: Any) -> None:
    text = yaml.safe_dump({"padding": "x" * 100, "value": value})
    assert parse(text)["value"] == value


@given(st.integers(1, 30), st.integers(1, 6))
def test_values_are_counted_with_repetition(width: int, levels: int) -> None:
    text = f"- &a0 [{', '.join('x' * width)}]\n"
    text += "".join(f"- &a{i + 1} [{', '.join([f'*a{i}'] * width)}]\n" for i in range(levels)) + " " * 100
    sizes = [1 + width]
    for _ in range(levels):
        sizes.append(1 + width * sizes[-1])
    if 1 + sum(sizes) <= MAX_VALUES:
        assert len(parse(text)) == 1 + levels
    else:
        with pytest.raises(InputError):
            parse(text)


@pytest.mark.parametrize("how", ["config", "part", "value"])
def test_the_command_line_refuses_such_yaml(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    tmp_path: Path,
    how: str,
) -> None:
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    path = tmp_path / "laughs.yaml"
    more = {"config": f"--config={path}", "part": f"--model.encoder={path}", "value": f"--data.source={LAUGHS}"}[how]
    assert "more than 10000 values" in refusal([*TINY, more])


def test_the_sweep_and_the_report_refuse_such_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LAUGHS)
    for reader in (load, lambda path: load_run(Path(path).parent)):
        with pytest.raises(InputError, match="more than 10000 values"):
            reader(str(tmp_path / "config.yaml"))


def test_deeply_nested_cards_and_compressed_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1")
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({}))
    np.savez_compressed(tmp_path / "observed.npz", singular=np.zeros(10**6))
    with pytest.raises(InputError, match="unpacks to more bytes than it has"):
        load_run(tmp_path)
