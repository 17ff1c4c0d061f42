"""A checkpoint that ``fit`` did not write is a one-line error, or the run resumes exactly."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime.checkpoint import load_checkpoint, require_resumable
from simmim_pl.runtime.integrity import DIGESTS, checkpoint_id, digest, with_digests
from tests.conftest import TINY
from tests.test_bad_input import refusal  # noqa: F401, a fixture

Place = tuple[Any, ...]
JUNK = [None, "x", -1, 2.5, True, [], {}, [[1]], {"x": {}}, torch.zeros(3), torch.zeros(2, 2, dtype=torch.complex64)]


@pytest.fixture(scope="module")
def saved(pretrained: Path) -> dict[str, Any]:
    return load_checkpoint(pretrained)


def places(value: Any, where: Place = ()) -> Iterator[Place]:
    """Every path in a nested value, including containers."""
    if where:
        yield where
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*where, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from places(part, (*where, i))


def changed(saved: dict[str, Any], where: Place, how: str, junk: Any = None) -> dict[str, Any]:
    """The checkpoint with one entry deleted, or changed in type or value."""
    result = copy.deepcopy(saved)
    holder: Any = result
    for key in where[:-1]:
        holder = holder[key]
    if how == "delete":
        del holder[where[-1]]
    elif how == "junk":
        holder[where[-1]] = junk
    else:
        holder[where[-1]] = other(holder[where[-1]])
    return result


def other(value: Any) -> Any:
    """A different value of the same type."""
    if isinstance(value, Tensor):
        return value + 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [value] if value is None else type(value)()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_is_found_before_anything_is_built(saved: dict[str, Any], data: st.DataObject) -> None:
    where = data.draw(st.sampled_from([place for place in places(saved) if place[0] != DIGESTS]))
    how = data.draw(st.sampled_from(["delete", "junk", "value"]))
    mutant = changed(saved, where, how, data.draw(st.sampled_from(JUNK)))
    if digest(mutant) == digest(saved):  # an empty mapping replaced by an empty mapping
        require_resumable(mutant, "x.ckpt")
        return
    with pytest.raises(InputError, match=r"x.ckpt (is damaged or was changed after fit wrote it, at |was written by)"):
        require_resumable(mutant, "x.ckpt")


def test_an_unchanged_checkpoint_passes(saved: dict[str, Any]) -> None:
    require_resumable(saved, "x.ckpt")
    require_resumable(copy.deepcopy(saved), "x.ckpt")
    require_resumable(
        {name: value for name, value in saved.items() if name != DIGESTS}, "x.ckpt"
    )  # as another tool does


@pytest.mark.parametrize(
    ("where", "junk"),
    [
        (("loops",), {}),
        (("loops", "fit_loop", "epoch_progress", "current", "ready"), "1"),
        (("loops", "fit_loop", "epoch_loop.batch_progress", "is_last_batch"), 1),
        (("optimizer_states", 0, "state"), {"0": {}}),
        (("optimizer_states", 0, "param_groups"), []),
        (("lr_schedulers",), [3]),
        (("lr_schedulers",), torch.zeros(3)),
        (("callbacks",), [1]),
        (("state_dict", "head.mlp.0.weight"), 3),
        (("ImageDataModule", "epoch"), 1.0),
        (("epoch",), True),
    ],
)
def test_wrong_types_are_found_even_with_matching_digests(saved: dict[str, Any], where: Place, junk: Any) -> None:
    with pytest.raises(InputError, match=r"at " + ".".join(map(str, where[: len(where) - 1 or 1]))):
        require_resumable(with_digests(changed(saved, where, "junk", junk)), "x.ckpt")


@pytest.mark.parametrize("name", ["lr_schedulers", "optimizer_states"])
def test_an_empty_list_with_matching_digests_passes(saved: dict[str, Any], name: str) -> None:
    none = changed(saved, (name,), "junk", [])
    require_resumable(with_digests(none), "x.ckpt")
    for seals in ({}, saved[DIGESTS]):
        with pytest.raises(InputError, match=f"at {name}"):
            require_resumable({**none, DIGESTS: seals}, "x.ckpt")


def test_different_checkpoints_have_different_digests(saved: dict[str, Any]) -> None:
    other = with_digests(changed(saved, ("state_dict", "head.mlp.0.weight"), "value"))
    without = {name: value for name, value in saved.items() if name != DIGESTS}
    assert checkpoint_id(saved).startswith("step 10 (")
    assert checkpoint_id(saved) == checkpoint_id(copy.deepcopy(saved))
    assert len({checkpoint_id(saved), checkpoint_id(other), checkpoint_id(without)}) == 3


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_the_digest_is_of_the_values_read_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "x.pt"
    torch.save(value, path)
    assert digest(torch.load(path, weights_only=True)) == digest(value)


def test_the_digest_depends_on_types_shapes_and_order() -> None:
    row = torch.arange(4.0)
    values = [
        row,
        row.double(),
        row.view(2, 2),
        row.view(4, 1),
        [row],
        (row,),
        {"a": row},
        [],
        (),
        {},
        None,
        "None",
        1,
        1.0,
    ]
    values += [
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        [1, [2]],
        [[1], 2],
        [[1, 2]],
        ["a", "b"],
        ["ab"],
        row.bool(),
        row.bfloat16(),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(row[::2]) == digest(row[::2].clone())


# Values with valid types and digests that Lightning, an optimizer or a callback cannot restore.
FORGED = {
    "optimizer, fewer parameters": (("optimizer_states", 0, "param_groups", 0, "params"), [0]),
    "optimizer, one group": (("optimizer_states", 0, "param_groups"), [{"params": [0]}]),
    "schedule, nothing": (("lr_schedulers", 0), {"lr_lambdas": 3}),
    "probe of other classes": (("callbacks", "OnlineProbe", "probe"), {}),
    "probe's optimizer": (("callbacks", "OnlineProbe", "optimizer"), {"state": {}, "param_groups": []}),
    "alarm": (("callbacks", "CollapseMonitor"), {"raised": 3}),
    "place in the data": (("ImageDataModule",), {"epoch": 1, "batches": 0}),
}


@pytest.mark.parametrize("case", FORGED)
def test_an_unrestorable_checkpoint_is_a_one_line_error(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    saved: dict[str, Any],
    tmp_path: Path,
    case: str,
) -> None:
    torch.save(with_digests(changed(saved, FORGED[case][0], "junk", FORGED[case][1])), tmp_path / "x.ckpt")
    said = refusal([*TINY, f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"])
    assert "checkpoint" in said


@pytest.mark.parametrize("how", ["delete", "value"])
def test_the_command_line_refuses_a_changed_checkpoint(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    saved: dict[str, Any],
    tmp_path: Path,
    how: str,
) -> None:
    where = ("optimizer_states", 0, "state", 3, "exp_avg")
    torch.save(changed(saved, where, how), tmp_path / "x.ckpt")
    said = refusal([*TINY, f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"])
    assert "x.ckpt is damaged or was changed after fit wrote it, at optimizer_states" in said


JUDGED = [
    ("validate", "loops", {}),
    ("validate", "callbacks", {"OnlineProbe": 3}),
    ("validate", "callbacks", {"OnlineProbe": {}}),
    ("validate", "state_dict", {"x": 1}),
    ("predict", "loops", None),
    ("predict", "callbacks", []),
]


@pytest.mark.parametrize(("verb", "section", "junk"), JUDGED)
def test_evaluating_a_malformed_checkpoint_works_or_is_a_one_line_error(
    cli: Callable[[list[Any]], Path],
    capfd: pytest.CaptureFixture,
    saved: dict[str, Any],
    tmp_path: Path,
    verb: str,
    section: str,
    junk: Any,
) -> None:
    torch.save({**saved, section: junk}, tmp_path / "x.ckpt")
    code = 0
    try:
        cli([verb, *TINY[1:], f"--ckpt_path={tmp_path / 'x.ckpt'}", "--data.predict_split=validation"])
    except SystemExit as exit_:
        code = exit_.code
    assert (code, capfd.readouterr().err.count("error: ")) in [(0, 0), (2, 1)]
