"""Evidence for or against learning: measurements, each compared with its value without learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from simmim_pl.metrics.shares import Z, interval, percent, share

NATS = 0.1  #: smallest gain of information or loss that counts, however significant
LOWER = 0.1  #: the same for a loss whose value by chance is small, as a share of it
POINTS = 0.05  #: gain of kNN accuracy; if so much is ruled out, that is evidence against learning
APART = 0.2  # threshold of representation/std: below it the mean cosine of different images is above 0.96
GROWN = 1.1  # RankMe must grow by this factor: its value depends a little on the images


@dataclass(frozen=True)
class Evidence:
    """One measurement.

    - ``kind``: what was measured.
    - ``holds``: whether it speaks for learning, or against it; None when it is missing, or too noisy to tell.
    - ``words``: the numbers, or why they are missing.
    """

    kind: str
    holds: bool | None
    words: str


def evidence(metrics: Mapping[str, float]) -> list[Evidence]:
    """All evidence of one validation.

    For a method without projections of views it is that of the features: their spread, their effective rank, and the
    accuracy of a linear probe.

    - ``metrics``: by the names under which callbacks log them.
    """
    if features_only(metrics):
        return [loss(metrics), feature_spread(metrics), rank(metrics), neighbours(metrics), probe(metrics), PROJECTIONS]
    return [loss(metrics), information(metrics), matching(metrics), spread(metrics), neighbours(metrics)]


PROJECTIONS = Evidence(
    *("projections", None),
    "alignment and information of views (the method has no projections, or the data no views)",
)


def features_only(metrics: Mapping[str, float]) -> bool:
    """Whether features were measured, and no projections."""
    return "representation/feature_std" in metrics and "representation/std" not in metrics


def loss(metrics: Mapping[str, float]) -> Evidence:
    """The training loss is below the least loss of embeddings without information about their image.

    By :data:`NATS`, or by the share :data:`LOWER` of it if that is less: SIGReg's may be 0.06.
    """
    value, chance = metrics.get("train/loss"), metrics.get("train/loss_at_chance")
    if value is None or chance is None:
        return Evidence("loss", None, "loss compared with chance (this loss does not define its value at chance)")
    margin = min(NATS, LOWER * chance) if chance > 0 else NATS
    digits = 2 if abs(chance) >= 1 or chance == 0 else 3
    return Evidence("loss", value < chance - margin, f"loss {value:.{digits}f}, by chance {chance:.{digits}f}")


def information(metrics: Mapping[str, float]) -> Evidence:
    """The InfoNCE bound is above its value before training, and above 0, by :data:`NATS` and by its own noise.

    The bound is a mean of N log density ratios, where N is the exponential of its ceiling. A small mutual information
    is about half the variance of that logarithm, so its standard error is about √(2 · information / N). The information
    in this formula is at least the value before training plus half of :data:`NATS`, since a bound near 0 is not exact.
    """
    value, ceiling = metrics.get("information/infonce"), metrics.get("information/ceiling")
    if value is None or ceiling is None:
        return Evidence("information", None, "information that two views share (add the callback Representation)")
    before = metrics.get("information/infonce_untrained")
    noise = Z * math.sqrt(2 * max(value, max(before or 0.0, 0.0) + NATS / 2) / math.exp(ceiling))
    words = f"two views share {value:.2f} ± {noise:.2f} nats" + ("" if before is None else f", untrained {before:.2f}")
    return gain("information", words, (value - max(noise, NATS), value + noise), before, 0.0, NATS)


def matching(metrics: Mapping[str, float]) -> Evidence:
    """Contrastive accuracy is above chance, and above its value before training.

    For two views of n images, chance is 1 / (2n - 1). n is twice the exponential of the information's ceiling. The 2n
    views count as independent trials, though the two views of an image are correlated.
    """
    value, ceiling = metrics.get("representation/contrastive_accuracy"), metrics.get("information/ceiling")
    if value is None or ceiling is None:
        return Evidence("matching", None, "contrastive accuracy (add the callback Representation)")
    views = round(4 * math.exp(ceiling))
    chance, before = 1 / (views - 1), metrics.get("representation/contrastive_accuracy_untrained")
    words = f"contrastive accuracy {share(value, views, before)}, by chance {percent(chance)}"
    base = max(before or 0.0, chance)
    return gain("matching", words, interval(value, views), before, chance, worth(base, base, views))


def spread(metrics: Mapping[str, float]) -> Evidence:
    """Different images are not nearly the same: not all cosines are near 1."""
    value = metrics.get("representation/std")
    if value is None:
        return Evidence("spread", None, "spread of projections (add the callback Representation)")
    near = "" if value >= APART else ": the cosines of different images are nearly 1"
    return Evidence("spread", value >= APART, f"projections spread by {value:.2f}, where 1 is even{near}")


def feature_spread(metrics: Mapping[str, float]) -> Evidence:
    """Features of different images are not nearly the same.

    Evidence against learning is only a spread below half of that before training: an untrained network's features may
    be nearly the same too.
    """
    value, before = metrics["representation/feature_std"], metrics.get("representation/feature_std_untrained")
    words = f"features spread by {value:.2f}" + ("" if before is None else f", untrained {before:.2f}")
    closer = before is not None and value < before / 2
    return Evidence("feature spread", True if value >= APART else False if closer else None, words)


def rank(metrics: Mapping[str, float]) -> Evidence:
    """RankMe of the features is higher than before training. Less than half of it is evidence against learning."""
    value, before = (metrics.get(f"representation/rankme{when}") for when in ("", "_untrained"))
    if value is None or before is None:
        return Evidence("rank", None, "RankMe compared with the untrained network (add the callback Representation)")
    holds = True if value > GROWN * before else False if value < before / 2 else None
    return Evidence("rank", holds, f"features use {value:.1f} directions, untrained {before:.1f}")


def probe(metrics: Mapping[str, float]) -> Evidence:
    """A linear probe is above chance. This is weak evidence: a probe on an untrained network may be above it too.

    A probe at chance is evidence against learning only if kNN accuracy has not improved either: features from which
    neighbours tell the class need not be linearly separable, and the probe is trained no longer than the run.
    """
    value, images, chance = (metrics.get(f"val/{name}") for name in ("probe", "images", "chance"))
    if value is None or images is None or chance is None:
        return Evidence("probe", None, "linear probe (needs labels, and the callback OnlineProbe)")
    words, trials = f"linear probe {share(value, round(images), None)}, by chance {percent(chance)}", round(images)
    found = gain("probe", words, interval(value, trials), chance, chance, worth(min(POINTS, chance), chance, trials))
    if found.holds is False and neighbours(metrics).holds:
        return Evidence("probe", None, f"{words}, though kNN accuracy has improved")
    return found


def neighbours(metrics: Mapping[str, float]) -> Evidence:
    """kNN accuracy on validation is above that of the encoder before training, and above chance.

    Evidence against learning: a gain of :data:`POINTS` is ruled out, or of the initial accuracy if that is smaller.

    If the training set has no labels, labelled sets beside it take its place, all of them, so that none has to be
    chosen: a gain on any is evidence for learning, and only if a gain on each is ruled out, that is evidence against.
    """
    names = [name.removeprefix("val/knn") for name in sorted(metrics) if name.startswith("val/knn/")]
    found = [neighbours_on(metrics, name) for name in ([] if "val/knn" in metrics else names) or [""]]
    all_of = {piece.holds for piece in found}
    holds = True if True in all_of else None if None in all_of else False
    return Evidence("neighbours", holds, "; ".join(piece.words for piece in found))


def neighbours_on(metrics: Mapping[str, float], name: str) -> Evidence:
    """:func:`neighbours` on one set.

    - ``name``: ends its metrics' names: ``""`` for the training set's own validation split, else ``/NAME``.
    """
    value, before, images = (metrics.get(f"val/{metric}{name}") for metric in ("knn", "knn_untrained", "images"))
    if value is None or images is None:
        return Evidence("neighbours", None, "kNN accuracy (needs labels, and the callback OnlineProbe)")
    trials, chance = round(images), metrics.get(f"val/chance{name}", 0.0)
    words = f"kNN accuracy {f'on {name[1:]} ' if name else ''}{share(value, trials, before)}"
    base = max(before or 0.0, chance)
    return gain("neighbours", words, interval(value, trials), before, chance, worth(min(POINTS, base), base, trials))


def gain(
    kind: str, words: str, ends: tuple[float, float], before: float | None, chance: float, worth: float
) -> Evidence:
    """Evidence for learning if the interval is above the value before; against it if a gain of ``worth`` is ruled out.

    The value before is treated as exact, though it is noisy too.
    """
    if before is None:
        return Evidence(kind, None, f"{words}, but the untrained network was not measured")
    (low, high), base = ends, max(before, chance)
    if low > base or high < base + worth:
        return Evidence(kind, low > base, words)
    return Evidence(
        kind, None, f"{words}, which {'is within its noise' if worth >= 0 else 'is too near the maximum to tell'}"
    )


def worth(wanted: float, base: float, trials: int) -> float:
    """The gain over a share to be ruled out as evidence against learning: ``wanted``, but at most half of 1 − ``base``.

    If even a share of 1 would be within the noise, no gain can be detected, and only a loss of :data:`POINTS` counts.

    >>> [round(worth(0.05, base, 1000), 3) for base in (0.5, 0.96, 0.995)]
    [0.05, 0.02, -0.05]
    """
    return min(wanted, (1 - base) / 2) if interval(1.0, trials)[0] > base else -POINTS
