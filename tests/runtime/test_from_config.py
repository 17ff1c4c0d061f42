"""Configs from files are processed in bounded time."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch

from simmim_pl.contracts import InputError
from simmim_pl.runtime.checkpoint import load_checkpoint, load_encoder
from simmim_pl.runtime.yaml_schema import require_config_size

FASTCNN = "simmim_pl.encoders.FastCNN"


def shared(kind: Any) -> Any:
    """2⁴⁰ values in forty."""
    value = kind(["x"])
    for _ in range(40):
        value = kind([value, value])
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


LAUGHS = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefgh"))
MERGES = "".join(f"{name}: &{name} {{<<: [*{before}, *{before}]}}\n" for before, name in pairwise("abcdefghij" * 3))
LARGE: dict[str, Any] = {
    "lists": shared(list),
    "tuples": shared(tuple),
    "mappings": {"a": shared(lambda pair: dict(enumerate(pair)))},
    "a class path": {"class_path": shared(list)},
    "a cycle": cycle(),
    "many": list(range(20_000)),
    "aliases in a text": "a: &a [x, x, x]\n" + LAUGHS,
    "merges in a text": "a: &a {x: 1}\n" + MERGES,
    "an alias of itself": "&a [*a, *a]" + " " * 100,
    "a long text": "x" * 200_000,
    "one text, often": ["a.b | " * 1_000 + "c"] * 9_000,
    "nested text": "- " * 200 + "x",
}


@pytest.mark.parametrize("case", LARGE)
def test_a_config_that_is_exponentially_large_is_refused_in_linear_time(case: str) -> None:
    with pytest.raises(InputError, match=r"x.ckpt holds .*do not use it"):  # some would take years without a limit
        require_config_size({"class_path": FASTCNN, "init_args": {"width": LARGE[case]}}, "x.ckpt")


@pytest.mark.parametrize(
    ("case", "place"),
    [
        *product(["lists", "tuples", "mappings", "many"], ["encoder", "config"]),
        *product(["lists", "many"], ["elsewhere"]),
    ],
)
def test_a_small_checkpoint_that_shares_its_values_is_refused(tmp_path: Any, case: str, place: str) -> None:
    encoder = {"class_path": FASTCNN, "init_args": {"width": LARGE[case] if place == "encoder" else 2}}
    config = {"model": {"init_args": {"encoder": encoder}}, "more": LARGE[case] if place == "config" else 0}
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "config": config, "more": LARGE[case] if place == "elsewhere" else 0}, path)
    if (case, place) == ("many", "elsewhere"):
        assert load_checkpoint(path)["more"] == LARGE[case]
        return
    with pytest.raises(InputError, match=r"more than 1?0+0 values"):
        load_encoder(str(path), trained=False)


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, True, "text", ("x", {"y": "[1, {z: 2}]"})]}, list(range(9_000))]
)
def test_a_config_of_plain_values_passes(value: Any) -> None:
    require_config_size(value, "x.ckpt")
