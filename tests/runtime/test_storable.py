"""Callback state in a checkpoint can be read back; unreadable state is refused when it is saved."""

import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from torch import nn

from simmim_pl.contracts import InputError
from simmim_pl.runtime.integrity import with_digests
from simmim_pl.runtime.storable import storable
from simmim_pl.runtime.unpickle import unpickle
from tests.conftest import TINY

Cli = Callable[[list[Any]], Path]


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float


class Keeps(Callback):
    """A user's callback with a state that is not plain, storable or not."""

    def __init__(self, stored: bool = True) -> None:
        self.stored = stored
        self.restored: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        state = {"best": np.float32(0.5), "count": np.int64(3), "folder": Path("a/b"), "curve": np.arange(3.0)}
        return state if self.stored else state | {"model": {"net": object()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict


def read_back(value: Any) -> Any:
    with TemporaryDirectory() as folder:
        torch.save(value, Path(folder, "state.pt"))
        return unpickle(Path(folder, "state.pt"))


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


def noted(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with an additional Python attribute."""
    tensor.note = object()
    return tensor


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2]], dtype=np.int32), torch.tensor([[1, 2]], dtype=torch.int32)),
        (np.arange(6.0)[::-2], torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (Point(1, 2.0), (1, 2.0)),
        (frozenset({1}), {1}),
        (deque([1, 2]), [1, 2]),
        (range(2), [0, 1]),
        (Counter("aab"), Counter("aab")),
        (OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
        ({"a": [np.int8(1), (Path("c"),)]}, {"a": [1, ("c",)]}),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
        (noted(torch.ones(2)), torch.ones(2)),
        (noted(torch.nn.Parameter(torch.ones(2))), torch.ones(2)),
        (2**2039 - 1, 2**2039 - 1),
        (b"bytes", b"bytes"),
        (bytearray(b"bytes"), b"bytes"),
    ],
    ids=str,
)
def test_values_are_read_back_as_plain_equals(value: Any, plain: Any) -> None:
    found = read_back(storable(value, "a state"))
    if isinstance(plain, torch.Tensor):
        assert found.dtype == plain.dtype
        assert torch.equal(found, plain)
    else:
        assert type(found) is type(plain)
        assert found == plain


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
nested = st.recursive(
    leaves, lambda part: st.lists(part) | st.dictionaries(st.text(max_size=3), part) | st.tuples(part), max_leaves=12
)


@given(nested)
def test_plain_values_are_unchanged(value: Any) -> None:
    assert storable(value, "a state") == value == read_back(storable(value, "a state"))


def test_module_versions_are_kept() -> None:
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    found = read_back(storable({"probe": state}, "a state"))["probe"]
    assert type(found) is OrderedDict
    assert found._metadata == state._metadata
    assert found._metadata["0"] == {"version": 2}


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 0,
        {"a": [1, object()]},
        np.array(["a", None], dtype=object),
        b"",
        bytearray(),
        2**2039,
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
        quantised(),
    ],
    ids=type,
)
def test_values_that_cannot_be_read_back_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"The state of X.* which could not be read back from a checkpoint"):
        storable(value, "the state of X")


def test_a_run_with_storable_callbacks_resumes(cli: Cli) -> None:
    keeps = "--trainer.callbacks+=tests.runtime.test_storable.Keeps"
    run = cli([*TINY, "--trainer.max_steps=1", keeps])
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Keeps"]
    assert (state["best"], state["count"], state["folder"]) == (0.5, 3, "a/b")
    assert state["curve"].tolist() == [0.0, 1.0, 2.0]
    assert cli([*TINY, "--trainer.max_steps=2", keeps, "--ckpt_path=last"]) == run


def test_an_unstorable_callback_is_refused_before_training(
    cli: Cli, capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    keeps = ["--trainer.callbacks+=tests.runtime.test_storable.Keeps", "--trainer.callbacks.stored=false"]
    with pytest.raises(SystemExit) as exit_:
        cli([*TINY, *keeps])
    assert exit_.value.code == 2
    assert "error: The state of the callback Keeps, model, net, holds a builtins.object" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trusted_file_may_hold_anything(cli: Cli, capfd: pytest.CaptureFixture) -> None:
    path = cli([*TINY, "--trainer.max_steps=1"]) / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    torch.save(with_digests(saved | {"extra": Path("a")}), path)  # as an earlier version may have written it
    line = [*TINY, "--trainer.max_steps=2", f"--ckpt_path={path}"]
    with pytest.raises(SystemExit):
        cli(line)
    assert "holds more than tensors and plain values" in capfd.readouterr().err
    cli([*line, "--weights_only=false"])
    assert torch.load(path, weights_only=True)["global_step"] == 2
