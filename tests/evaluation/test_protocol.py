"""A protocol's settings are recorded completely in the card, as JSON; ties are resolved by order."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from simmim_pl.evaluation import KNN, AugmentedProbe, DenseProbe, FewLabels, FineTune, LinearProbe, VideoProbe
from simmim_pl.evaluation.protocol import Protocol, best, by_name, plain
from simmim_pl.evaluation.result import Estimate, Result
from simmim_pl.evaluation.training import LRSearch
from simmim_pl.views import ContrastiveViews, CropFlip


def arguments(kind: type) -> set[str]:
    """Names of a class's arguments, except the data set."""
    return set(inspect.signature(kind).parameters) - {"data"}


@pytest.mark.parametrize(
    "protocol",
    [
        KNN(k=[1, 5], temperature=[None, 0.1]),
        LinearProbe(l2=[1e-3, 1.0]),
        FewLabels(),
        DenseProbe(),
        VideoProbe(),
        AugmentedProbe(CropFlip(16)),
        FineTune(CropFlip(16), lr=[1e-3]),
    ],
    ids=lambda protocol: type(protocol).__name__,
)
def test_settings_contain_every_hyperparameter_as_json(protocol: Protocol) -> None:
    found = protocol.settings()
    assert found.keys() == arguments(type(protocol))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_settings_record_the_given_values() -> None:
    assert KNN(k=(1, 5), temperature=(None, 0.1), metric="euclidean").settings() == {
        "k": [1, 5],
        "metric": "euclidean",
        "temperature": [None, 0.1],
    }
    assert LinearProbe(l2=[1e-3, 1.0]).settings() == {"folds": False, "l2": [1.0, 1e-3]}  # in the order they are tried
    assert FewLabels([0.5], [2], draws=3, prior=0.1).settings() == {
        "draws": 3,
        "per_class": [2],
        "prior": 0.1,
        "shares": [0.5],
    }


def test_injected_parts_are_recorded_with_class_and_settings() -> None:
    views = CropFlip(16, scale=(0.5, 1.0), flip=0.25)
    lr_search = LRSearch(lr=(0.1, 1.0), optimizer="adam", weight_decay=0.05, epochs=3)
    found = AugmentedProbe(views, lr_search).settings()
    shown = {"class": "CropFlip", "flip": 0.25, "ratio": [3 / 4, 4 / 3], "scale": [0.5, 1.0], "size": 16}
    assert found["views"] == shown
    assert found["lr_search"] == {
        "class": "LRSearch",
        "epochs": 3,
        "lr": [0.1, 1.0],
        "optimizer": "adam",
        "weight_decay": 0.05,
    }
    assert AugmentedProbe(views.eval(), lr_search).settings() == found  # no mode, no parameters, no hooks
    contrastive = plain(ContrastiveViews(20, blur=0.5))
    assert contrastive.keys() == {"class", "size", "views", "scale", "ratio", "flip", "operations"}
    assert (
        contrastive["operations"]
        == [
            [
                {"class": "ColorJitter", "probability": 0.8, "strength": [0.4, 0.4, 0.4, 0.1]},
                {"class": "Grayscale", "probability": 0.2},
                {"class": "GaussianBlur", "probability": 0.5, "sigma": [0.1, 2.0], "smallest": 20},
            ]
        ]
        * 2
    )


def test_different_hyperparameters_give_different_settings() -> None:
    many = [
        FineTune(CropFlip(16)),
        FineTune(CropFlip(32)),
        FineTune(CropFlip(16, flip=0)),
        FineTune(CropFlip(16), layer_decay=0.5),
        FineTune(CropFlip(16), epochs=11),
    ]
    assert len({json.dumps(protocol.settings()) for protocol in many}) == len(many)


class Chain(nn.Module):
    """A nested part, containing a module and values outside JSON."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.places = inner, {"a": (1, 2), 3: None}
        self.path, self.weight = Path("x/y"), nn.Parameter(torch.ones(2))
        self._private = 5


def test_nested_parts_and_non_json_values_are_recorded() -> None:
    found = plain(Chain(CropFlip(8)))
    assert found["class"] == "Chain"
    assert found["inner"] == plain(CropFlip(8))
    assert found["places"] == {"a": [1, 2], "3": None}
    assert found["path"] == "x/y"
    assert "_private" not in found
    assert "training" not in found
    json.dumps(found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_values_are_unchanged(value: Any) -> None:
    assert plain(value) == value


def test_ties_select_the_first() -> None:
    assert best({"a": 0.1, "b": 0.7, "c": 0.7, "d": 0.5}) == "b"
    assert best({(5, None): 0.0}) == (5, None)


@given(st.dictionaries(st.floats(1e-6, 1e3), st.integers(0, 5).map(float), min_size=1))
def test_the_selected_candidate_is_the_first_maximum(accuracy: dict[Any, float]) -> None:
    names = list(accuracy)
    place = names.index(best(accuracy))
    assert accuracy[names[place]] == max(accuracy.values())
    assert all(accuracy[name] < accuracy[names[place]] for name in names[:place])


def test_validation_results_have_short_names_and_six_digits() -> None:
    accuracy = {1e-05: 1 / 3, 0.1: 0.5, (5, None): 1.0, 3: 0.25}
    assert by_name(accuracy) == {"1e-05": 0.333333, "0.1": 0.5, "(5, None)": 1.0, "3": 0.25}
    assert by_name({1.0: math.nan})["1"] != by_name({1.0: math.nan})["1"]  # NaN if it diverged


class Evaluating(Protocol):
    def evaluate(self, context: Any) -> list[Result]:
        return []


def test_a_protocol_without_evaluate_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match=r"abstract method '?evaluate'?"):
        Protocol()


def test_the_data_set_is_not_a_hyperparameter_and_variants_are_optional() -> None:
    assert Evaluating().settings() == {}
    bare = Result({"accuracy": Estimate(0.5, 0.4, 0.6)})
    assert bare.variant == ""
    assert bare.chosen == {}
