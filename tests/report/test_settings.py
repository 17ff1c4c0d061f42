"""Configs are compared by command-line keys."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.report.settings import differences, flatten
from tests.conftest import CONFIGS

QUICKSTART = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
QUICKSTART["trainer"]["callbacks"] = [{"class_path": "simmim_pl.callbacks.Report"}]
ONLINE = {"class_path": "simmim_pl.callbacks.OnlineProbe", "init_args": {"k": 20}}
PLAIN = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
NESTED = st.recursive(PLAIN, lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, min_size=1), max_leaves=8)


def test_keys_equal_those_of_the_command_line() -> None:
    found = flatten(QUICKSTART)
    assert found["model"] == "simmim_pl.methods.Contrastive"
    assert found["model.loss.temperature"] == 0.2
    assert found["data.views.scale"] == [0.2, 0.8]
    assert found["trainer.callbacks.Report"] == "simmim_pl.callbacks.Report"
    assert not [key for key in found if "init_args" in key or "class_path" in key]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seed_everything": 1}, {"seed_everything": ["0", "1"]}),
        ({"trainer": {"callbacks": [ONLINE, *QUICKSTART["trainer"]["callbacks"]]}}, None),
        ({"notes": "x"}, {"notes": ["–", "x"]}),
    ],
)
def test_only_differences_are_shown(changed: dict[str, Any], expected: dict[str, list[str]] | None) -> None:
    found = differences([QUICKSTART, QUICKSTART | changed])
    if expected is None:  # an additional callback does not shift the others
        assert found["trainer.callbacks.OnlineProbe.k"] == ["–", "20"]
        assert not [key for key in found if "Report" in key]
    else:
        assert found == expected


def test_two_callbacks_of_a_class_are_numbered() -> None:
    one, two = ([ONLINE, {**ONLINE, "init_args": {"k": k}}] for k in (1, 2))
    assert differences([{"calls": one}, {"calls": two}]) == {"calls.OnlineProbe 2.k": ["1", "2"]}


@given(NESTED, NESTED)
def test_differences_are_shown_exactly_when_configs_differ(one: Any, other: Any) -> None:
    assert differences([one, one]) == {}
    told = differences([{"a": one}, {"a": other}])
    assert bool(told) == (str(sorted(flatten(one).items())) != str(sorted(flatten(other).items())))
    assert all(row[0] != row[1] for row in told.values())
