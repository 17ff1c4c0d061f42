"""Each failure is distinguished from the others and from learning, and "learning" needs evidence."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.metrics import diagnose, is_measurement, verdict
from simmim_pl.metrics.evidence import evidence
from tests.metrics.test_evidence import FEATURES, LEARNED, UNCHANGED

HEALTHY = LEARNED | {"information/infonce": 4.0, "representation/directions": 2.0}
NOTHING = LEARNED | UNCHANGED
BEGUN = {"train/progress": 0.1, "step": 14}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, set()),
        ({"representation/std": 0.01, "representation/directions": 1.1}, {"complete collapse"}),
        ({"representation/directions": 1.2}, {"dimensional collapse"}),
        ({"representation/directions": 1.5}, {"dimensional collapse"}),  # with a huge temperature
        ({"information/infonce": math.log(512), "information/ceiling": math.log(512)}, {"saturation"}),
        ({"information/infonce": math.log(20), "information/ceiling": math.log(20)}, set()),
        ({"representation/rankme": math.nan}, {"not finite"}),
        ({"representation/std": math.nan}, {"not finite"}),
        (
            {"representation/directions": 1.2, "information/infonce": 6.23},
            {"dimensional collapse", "saturation"},
        ),
    ],
)
def test_each_failure_is_distinguished(change: dict[str, float], found: set[str]) -> None:
    assert set(diagnose(HEALTHY | change)) == found
    assert diagnose({}) == {}
    said = verdict([HEALTHY | change] * 2)
    assert said.state in (found or {"learning", "cannot tell"})
    assert said.alarming == bool(found)
    assert all(name in f"{said.state} {said}" for name in found)  # the second problem is reported too


@pytest.mark.parametrize(
    ("validations", "state"),
    [
        ([], "too early to tell"),
        ([LEARNED], "too early to tell"),
        ([LEARNED, LEARNED], "learning"),
        ([NOTHING, LEARNED, LEARNED], "learning"),
        ([LEARNED, NOTHING], "cannot tell"),
        ([NOTHING], "too early to tell"),
        ([NOTHING, NOTHING], "not learning"),
        ([NOTHING | {"representation/contrastive_accuracy": 0.004}] * 2, "not learning"),  # significantly above chance
        ([NOTHING | BEGUN, NOTHING], "too early to tell"),  # only one that is not early
        ([NOTHING | BEGUN | {"step": 5000}, NOTHING], "not learning"),
        ([LEARNED | BEGUN, LEARNED | BEGUN], "learning"),  # sufficient evidence need not wait
        ([HEALTHY | {"val/knn": 0.17}] * 2, "shortcut"),
        ([HEALTHY | {"val/knn": 0.08}] * 2, "shortcut"),
        ([HEALTHY | {"val/knn": 0.08} | BEGUN] * 2, "too early to tell"),
        ([HEALTHY | {"val/knn": 0.17}, HEALTHY], "cannot tell"),
        ([HEALTHY | {"val/knn": 0.2}] * 2, "learning"),  # within its noise, but no evidence is against it
        ([HEALTHY | {"train/loss": 6.2}] * 2, "cannot tell"),
        ([HEALTHY | {"representation/std": 0.1}] * 2, "cannot tell"),
        ([HEALTHY | {"representation/std": 0.0}, HEALTHY], "cannot tell"),
        ([HEALTHY, HEALTHY | {"representation/std": 0.0}], "cannot tell"),
        ([HEALTHY | {"representation/std": 0.0}] * 2, "complete collapse"),
        ([{}, {}], "too early to tell"),
        ([{"train/progress": 0.5}] * 2, "cannot tell"),
    ],
)
def test_the_verdict_of_two_validations(validations: list[dict[str, float]], state: str) -> None:
    assert verdict(validations).state == state


def without(*names: str) -> dict[str, float]:
    return {name: value for name, value in LEARNED.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("metrics", "state", "named"),
    [
        (without("val/"), "learning", "kNN accuracy (needs labels"),
        (without("train/loss"), "learning", "does not define its value at chance"),
        (without("val/", "train/loss"), "learning", "kNN accuracy"),
        (without("representation/", "information/"), "cannot tell", "add the callback Representation"),
        (without("val/", "information/"), "cannot tell", "information that two views share"),
        (without("val/", "representation/", "information/"), "cannot tell", "spread of projections"),
    ],
)
def test_missing_metrics_are_named_and_not_taken_for_healthy(metrics: dict[str, float], state: str, named: str) -> None:
    found = verdict([metrics] * 2)
    assert found.state == state
    assert any(named in words for words in found.missing)
    assert f"Not known: {found.missing[0]}" in str(found)


def test_learning_needs_three_pieces_of_evidence_one_on_held_out_images() -> None:
    of = {"loss": "train/loss", "spread": "representation/std", "neighbours": "val/knn"}
    more = {"information": "information/infonce", "matching": "representation/contrastive_accuracy"}
    names = of | more
    for number in range(len(names) + 1):
        for kept in combinations(names, number):
            metrics = {name: value for name, value in LEARNED.items() if name not in names.values()}
            metrics |= {names[kind]: LEARNED[names[kind]] for kind in kept}
            assert {piece.kind for piece in evidence(metrics) if piece.holds} == set(kept)
            assert (verdict([metrics] * 2).state == "learning") == (number >= 3), kept


SOME = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from([value, NOTHING[name], 0.0, 0.02, math.nan])
        for name, value in LEARNED.items()
        if name not in ("step", "information/ceiling", "val/images")
    },
)


@given(st.lists(SOME, max_size=3))
def test_learning_needs_no_evidence_against_it(found: list[dict[str, float]]) -> None:
    validations = [{"information/ceiling": math.log(500), "val/images": 1000.0} | metrics for metrics in found]
    said = verdict(validations)
    if said.state == "learning":
        assert len(validations) > 1
        assert not said.against
        assert len(said.support) >= 3
        for metrics in validations[-2:]:
            assert not [piece for piece in evidence(metrics) if piece.holds is False]
    assert len(said.support) + len(said.missing) <= 5


UNLABELLED = {name: value for name, value in FEATURES.items() if not name.startswith("val/")}
STD = "representation/feature_std"


@pytest.mark.parametrize(
    ("metrics", "state"),
    [
        (FEATURES, "learning"),
        (FEATURES | {"val/knn": 0.17}, "not learning"),
        (FEATURES | {"val/knn": 0.2}, "learning"),  # by RankMe
        (FEATURES | {"val/knn": 0.2, "representation/rankme": 4.0}, "cannot tell"),
        (FEATURES | {"representation/rankme": 1.0}, "cannot tell"),  # contradicts the rest
        (FEATURES | {STD: 0.01}, "complete collapse"),
        (FEATURES | {STD: 0.01, f"{STD}_untrained": 0.015}, "learning"),  # as before training: no collapse
        (FEATURES | {STD: math.nan}, "not finite"),
        (UNLABELLED, "cannot tell"),  # two pieces
        (UNLABELLED | {"train/loss_at_chance": 0.5}, "learning"),
        (
            UNLABELLED | {"representation/rankme": 1.9},
            "cannot tell",
        ),  # possible before BatchNorm's statistics have converged
        (UNLABELLED | {STD: 0.001}, "complete collapse"),
    ],
)
def test_the_verdict_of_a_method_without_projections(metrics: dict[str, float], state: str) -> None:
    assert verdict([metrics] * 2).state == state
    assert verdict([metrics | BEGUN]).state == "too early to tell"


def test_a_validation_of_labelled_sets_alone_counts() -> None:
    named = ["val/knn", "val/knn/pets", "val/knn_untrained/pets", "val/chance/pets", "representation/std", "train/loss"]
    assert [name for name in named if is_measurement(name)] == ["val/knn", "val/knn/pets", "representation/std"]
