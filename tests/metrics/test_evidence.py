"""Evidence holds if a run has learned, does not if it has not, and is missing if it was not measured."""

import math

import numpy as np
import pytest
import torch

from simmim_pl.losses import NTXent, nt_xent
from simmim_pl.metrics import MutualInformation
from simmim_pl.metrics.evidence import evidence

LEARNED = {
    "train/loss": 5.54,
    "train/loss_at_chance": math.log(511),
    "train/progress": 1.0,
    "information/infonce": 0.88,
    "information/infonce_untrained": 0.01,
    "information/ceiling": math.log(500),
    "representation/contrastive_accuracy": 0.0125,
    "representation/contrastive_accuracy_untrained": 0.0005,
    "representation/std": 0.74,
    "representation/directions": 3.4,
    "representation/rankme": 20.0,
    "val/knn": 0.273,
    "val/knn_untrained": 0.17,
    "val/images": 1000.0,
    "step": 140,
}  # from the quickstart's first four epochs
# The same with a learning rate of 1e-9.
UNCHANGED = {
    "train/loss": 6.221,
    "information/infonce": 0.0121,
    "representation/contrastive_accuracy": 0.001,
    "val/knn": 0.18,
}


def holds(metrics: dict[str, float]) -> dict[str, bool | None]:
    return {piece.kind: piece.holds for piece in evidence(metrics)}


def knn(value: float, before: float, images: float) -> dict[str, float]:
    return {"val/knn": value, "val/knn_untrained": before, "val/images": images}


def matched(value: float, before: float, images: float) -> dict[str, float]:
    accuracy = "representation/contrastive_accuracy"
    found = {accuracy: value, f"{accuracy}_untrained": before, "information/ceiling": math.log(images / 2)}
    return found | {"information/infonce": math.log(images / 2) - 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train/loss": 6.2}, {"loss": False}),
        ({"train/loss": 0.056, "train/loss_at_chance": 0.06}, {"loss": False}),
        ({"train/loss": 0.05, "train/loss_at_chance": 0.06}, {}),  # SIGReg's are small
        ({"train/loss": 0.06, "train/loss_at_chance": 0.05}, {"loss": False}),
        ({"train/loss": -2.05, "train/loss_at_chance": -2.0}, {"loss": False}),
        ({"train/loss": -0.05, "train/loss_at_chance": 0.0}, {"loss": False}),
        ({"train/loss": -0.2, "train/loss_at_chance": 0.0}, {}),
        ({"train/loss": math.log(511)}, {"loss": False}),
        ({"train/loss": 8.0}, {"loss": False}),
        ({"information/infonce": 0.05}, {"information": False}),
        ({"information/infonce": -0.5}, {"information": False}),
        ({"information/infonce": 0.1}, {"information": None}),  # ± 0.06
        (
            {"information/infonce": 0.05, "information/ceiling": math.log(1e6)},
            {"information": False},
        ),  # significant, but small
        ({"information/infonce_untrained": 0.8}, {"information": None}),
        ({"information/infonce_untrained": 1.0}, {"information": False}),  # an untrained network has as much
        ({"information/infonce_untrained": -3.0}, {}),
        ({"information/ceiling": math.log(10)}, {"information": None, "matching": None}),  # of ten pairs: ± 1.3 nats
        (
            {"information/ceiling": math.log(10), "information/infonce": -0.05},
            {"information": None, "matching": None},
        ),  # not exactly zero
        ({"representation/contrastive_accuracy": 0.0}, {"matching": None}),
        ({"representation/contrastive_accuracy": 0.001}, {"matching": None}),
        ({"representation/contrastive_accuracy_untrained": 0.0124}, {"matching": False}),
        ({"representation/std": 0.15}, {"spread": False}),
        ({"val/knn": 0.17}, {"neighbours": False}),
        ({"val/knn": 0.2}, {"neighbours": None}),  # chance, of 1000
        ({"val/knn": 0.2, "val/images": 1e5}, {}),  # and of many more images
        ({"val/knn": 0.1}, {"neighbours": False}),
        ({"val/images": 40.0}, {"neighbours": None}),
        (knn(0.98, 0.96, 100), {"neighbours": None}),
        (knn(0.965, 0.955, 1000), {"neighbours": None}),
        (knn(0.96, 0.96, 1e4), {"neighbours": False}),
        (knn(0.99, 0.96, 1e4), {}),
        (knn(1.0, 1.0, 5000), {"neighbours": None}),
        (knn(0.998, 1.0, 5000), {"neighbours": None}),
        (knn(0.9, 1.0, 5000), {"neighbours": False}),  # a decrease is detectable where a gain is not
        (knn(0.033, 0.02, 1000), {"neighbours": None}),
        (knn(0.02, 0.02, 1e4), {"neighbours": False}),
        (knn(0.04, 0.02, 1e4), {}),
        (matched(0.95, 0.9, 100), {"matching": None}),
        (matched(0.96, 0.96, 5000), {"matching": False}),
        (matched(1.0, 1.0, 5000), {"matching": None}),
        ({"val/images": 40.0, "val/knn": 0.9}, {}),
        (UNCHANGED, {"loss": False, "information": False, "matching": None, "neighbours": False}),
    ],
)
def test_no_evidence_if_at_chance_or_not_above_the_untrained_network(
    change: dict[str, float], expected: dict[str, bool | None]
) -> None:
    assert holds(LEARNED | change) == dict.fromkeys(holds(LEARNED), True) | expected


@pytest.mark.parametrize(
    ("absent", "kinds"),
    [
        ("train/loss_at_chance", {"loss"}),  # of a loss without a chance value
        ("val/", {"neighbours"}),  # no labels
        ("val/knn_untrained", {"neighbours"}),
        ("information/infonce_untrained", {"information"}),
        ("representation/contrastive_accuracy_untrained", {"matching"}),
        ("information/", {"information", "matching"}),
        ("representation/", {"matching", "spread"}),
        ("", {"loss", "information", "matching", "spread", "neighbours"}),
    ],
)
def test_missing_metrics_are_no_evidence_and_are_named(absent: str, kinds: set[str]) -> None:
    metrics = {name: value for name, value in LEARNED.items() if not name.startswith(absent)}
    assert holds(metrics) == {kind: None if kind in kinds else True for kind in holds(LEARNED)}
    assert all(piece.words for piece in evidence(metrics))


def of_set(name: str, value: float) -> dict[str, float]:
    """Metrics of a labelled set."""
    found = {**knn(value, 0.17, 1000), "val/chance": 0.1}
    return {f"{metric}/{name}": number for metric, number in found.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 0.3}, True),
        ({"a": 0.2}, None),
        ({"a": 0.17}, False),
        ({"a": 0.3, "b": 0.17}, True),
        ({"a": 0.17, "b": 0.3}, True),
        ({"a": 0.17, "b": 0.2}, None),
        ({"a": 0.17, "b": 0.17}, False),
    ],
)
def test_labelled_sets_replace_the_labels_of_the_training_set(values: dict[str, float], expected: bool | None) -> None:
    own = {name: value for name, value in LEARNED.items() if name.startswith("val/")}
    sets = {name: number for each in values.items() for name, number in of_set(*each).items()}
    unlabelled = {name: value for name, value in LEARNED.items() if name not in own} | sets
    assert holds(unlabelled) == holds(LEARNED) | {"neighbours": expected}
    assert holds(unlabelled | own) == holds(LEARNED)  # its own labels count alone
    words = evidence(unlabelled)[-1].words
    assert words.split("; ")[0].startswith(f"kNN accuracy on a {100 * values['a']:.1f} % [")
    assert words.count("kNN accuracy on") == len(values)


def test_the_words_contain_the_numbers() -> None:
    words = {piece.kind: piece.words for piece in evidence(LEARNED)}
    assert words == {
        "loss": "loss 5.54, by chance 6.24",
        "information": "two views share 0.88 ± 0.18 nats, untrained 0.01",
        "matching": "contrastive accuracy 1.2 % [0.7–2.2], untrained 0.05 %, by chance 0.05 %",
        "spread": "projections spread by 0.74, where 1 is even",
        "neighbours": "kNN accuracy 27.3 % [23.3–31.7], untrained 17.0 %",
    }
    assert evidence(knn(1.0, 1.0, 5000))[-1].words.endswith("untrained 100.0 %, which is too near the maximum to tell")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pairs", [30, 500])
def test_independent_views_are_no_evidence(seed: int, pairs: int) -> None:
    torch.manual_seed(seed)
    z = torch.randn(2, 2 * pairs, 32)
    measure = MutualInformation()
    measure.update(z)
    found = {f"information/{name}": value.item() for name, value in measure.compute().items()}
    found["information/infonce_untrained"] = 0.0
    assert holds(found)["information"] in ((None, False) if pairs < 100 else (False,))


def test_the_noise_of_a_small_information_is_estimated_correctly() -> None:
    """For Gaussian pairs with the optimal critic, whose log-ratio the bound averages."""
    rng, correlation, pairs = np.random.default_rng(0), 0.4, 400
    x, noise = rng.normal(size=(2, 2000, pairs))
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    ratio = (2 * correlation * x * y - correlation**2 * (x**2 + y**2)) / (2 * (1 - correlation**2))
    information = -math.log(1 - correlation**2) / 2
    spread = (ratio.mean(1)).std()
    assert math.sqrt(2 * information / pairs) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(("views", "images", "decoupled"), [(2, 8, False), (3, 5, False), (2, 8, True), (4, 3, True)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_chance_is_the_loss_of_identical_projections(
    views: int, images: int, decoupled: bool, temperature: float
) -> None:
    loss = NTXent(temperature, decoupled)
    z = torch.randn(4, dtype=torch.float64).expand(views, images, 4)
    assert loss.at_chance(views, images, 4) == pytest.approx(nt_xent(z, temperature, decoupled).item(), abs=1e-9)


FEATURES = {
    "train/loss": 0.11,
    "representation/rankme": 9.0,
    "representation/rankme_untrained": 4.0,
    "representation/feature_std": 0.5,
    "representation/feature_std_untrained": 0.3,
    "val/knn": 0.273,
    "val/knn_untrained": 0.17,
    "val/probe": 0.3,
    "val/chance": 0.1,
    "val/images": 1000.0,
    "step": 140,
    "train/progress": 1.0,
}  # of a method without projections


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"train/loss_at_chance": 0.5}, {"loss": True}),
        ({"representation/rankme": 4.2}, {"rank": None}),
        ({"representation/rankme": 1.9}, {"rank": False}),
        ({"representation/feature_std": 0.19}, {"feature spread": None}),
        ({"representation/feature_std": 0.1}, {"feature spread": False}),
        ({"val/probe": 0.1}, {"probe": None}),  # kNN accuracy has improved
        ({"val/probe": 0.1, "val/knn": 0.17}, {"probe": False, "neighbours": False}),
        ({"val/probe": 0.12}, {"probe": None}),
        ({"val/knn": 0.17}, {"neighbours": False}),
        ({"val/chance": 0.3}, {"neighbours": False, "probe": False}),  # of a data set with one frequent class
    ],
)
def test_without_projections_features_are_the_evidence(
    change: dict[str, float], expected: dict[str, bool | None]
) -> None:
    kinds = dict.fromkeys(("feature spread", "rank", "neighbours", "probe"), True)
    assert holds(FEATURES | change) == {"loss": None, "projections": None} | kinds | expected
    words = {piece.kind: piece.words for piece in evidence(FEATURES)}
    assert words["projections"].endswith("(the method has no projections, or the data no views)")
    assert words["rank"] == "features use 9.0 directions, untrained 4.0"
    assert words["probe"] == "linear probe 30.0 % [25.8–34.5], by chance 10.0 %"


@pytest.mark.parametrize(
    ("names", "absent"),
    [(["val/"], {"neighbours", "probe"}), (["_untrained"], {"neighbours", "rank"}), (["val/chance"], {"probe"})],
)
def test_missing_feature_metrics_are_named(names: list[str], absent: set[str]) -> None:
    known = {name: value for name, value in FEATURES.items() if not any(part in name for part in names)}
    assert {kind for kind, held in holds(known).items() if held is None} == {"loss", "projections"} | absent
