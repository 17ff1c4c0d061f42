"""Is the run learning? A verdict from its metrics, in the same words in console, W&B and report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simmim_pl.metrics.evidence import evidence, features_only

SAME = 0.03  # threshold of representation/std, which is near 1 on a covered sphere: below it, collapse to one point
FEW = 1.7  # directions: with fewer, more than three quarters of the projections' variance are along one line
# A bound above FULL times its ceiling only reflects the number of images, if the ceiling is at least ENOUGH nats.
FULL, ENOUGH = 0.98, math.log(100)

MEASURED = ("representation/std", "representation/rankme", "val/knn")
EARLY = "too early to tell"
PIECES = 3  #: of evidence that "learning" needs
SHARE, STEPS = 0.25, 5000  # it is too early to tell before this share of the run's steps, or this many steps
HELD_OUT = ("information", "matching", "neighbours")
TRY = {
    "not learning": "Metrics of held-out images are no better than before training. Check that the views keep what "
    "identifies an image, that the learning rate is neither too low nor too high, that gradients reach the encoder, "
    "and that a contrastive loss's temperature is well below 1, or a teacher's momentum near 1.",
    "shortcut": "Views are matched, but kNN accuracy is no better than before training: views share something "
    "unrelated to the classes, such as colours or borders, or hide what distinguishes the classes. Change the views.",
    "cannot tell": "The evidence is insufficient or contradictory: check the evidence against learning, and measure "
    "what is missing.",
}


def is_measurement(metric: str) -> bool:
    """Whether a validation that logged this metric counts; one that logged none such measured nothing."""
    return metric in MEASURED or metric.startswith("val/knn/")


@dataclass(frozen=True)
class Verdict:
    """Whether a run learns.

    - ``state``: "learning", "too early to tell", "cannot tell", "not learning", "shortcut", or what
      :func:`diagnose` names.
    - ``why``: a sentence or two, with what to try.
    - ``support``, ``against``, ``missing``: the evidence in words.
    """

    state: str
    why: str
    support: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def alarming(self) -> bool:
        """Whether the user should be warned."""
        return self.state not in ("learning", EARLY, "cannot tell")

    @property
    def evidence(self) -> dict[str, tuple[str, ...]]:
        """The evidence by kind, which is for learning, against it, or missing."""
        return {"For learning": self.support, "Against it": self.against, "Not known": self.missing}

    def __str__(self) -> str:
        return " ".join([self.why, *(f"{what}: {'; '.join(each)}." for what, each in self.evidence.items() if each)])


def verdict(validations: Sequence[Mapping[str, float]]) -> Verdict:
    """The verdict on the last two validations; a single one is too noisy early in training.

    Missing evidence is listed, and never counts as good. The state is the first of these that is true:

    - what :func:`diagnose` finds at both validations;
    - "learning": at both, :data:`PIECES` or more pieces of evidence (see :mod:`simmim_pl.metrics.evidence`) are for
      learning and none against, and held-out images have improved since before training: in the information that views
      share, or in kNN accuracy; without the former, in contrastive accuracy; without either, and without projections,
      in RankMe;
    - "too early to tell": not both came after a quarter of the run's steps, or after 5000, whichever is sooner. A
      contrastive loss leaves its chance level within hundreds of steps at a good learning rate;
    - "not learning": at both, held-out images have not improved, and some of their evidence is against learning;
    - "shortcut": at both, held-out images have improved, but kNN accuracy is no better than before training;
    - "cannot tell": anything else.

    Args:
        validations: in order, the metrics of each by the names under which they are logged, with ``step`` and
            ``train/progress``, the share of the run's steps. Only the last two are read.
    """
    last = list(validations)[-2:]
    ill = [diagnose(metrics) for metrics in last]
    now = evidence(last[-1]) if last else []
    state, why = weigh([{piece.kind: piece.holds for piece in evidence(metrics)} for metrics in last], last)
    if lasting := [name for name in ill[-1] if name in ill[0]] if len(last) == 2 else []:
        state, why = lasting[0], f"{ill[-1][lasting[0]][0].upper()}{ill[-1][lasting[0]][1:]}"
    others = [f"{name}: {sentence.rstrip('.')}" for name, sentence in (ill[-1] if ill else {}).items() if name != state]
    support, against, missing = (
        tuple(piece.words for piece in now if piece.holds is holds) for holds in (True, False, None)
    )
    return Verdict(state, why, support, (*others, *against), missing)


def weigh(holds: Sequence[Mapping[str, bool | None]], last: Sequence[Mapping[str, float]]) -> tuple[str, str]:
    """State and reason of a run that :func:`diagnose` finds nothing wrong with.

    - ``holds``: for each validation, whether each kind of evidence is for learning, against it (False), or None.
    - ``last``: the metrics of the last two validations.
    """

    def always(true: Callable[[Mapping[str, bool | None]], bool]) -> bool:
        return all(map(true, holds))

    if len(last) < 2:
        measured = "It was measured at one validation" if last else "Nothing is measured yet"
        return EARLY, f"{measured}, and a verdict needs two (--trainer.check_val_every_n_epoch)."
    if always(convincing):
        number = list(holds[-1].values()).count(True)
        return "learning", f"{number} pieces of evidence are for it, at two validations, and none is against it."
    if last[0].get("train/progress", 0.0) < SHARE and last[0].get("step", 0) < STEPS:
        return EARLY, (
            f"The evidence is not sufficient yet. The verdict comes at two validations after {100 * SHARE:.0f} % of "
            f"the steps, or after {STEPS} steps."
        )
    if always(lambda held: not gains(held) and any(held.get(kind) is False for kind in HELD_OUT)):
        state = "not learning"
    elif always(lambda held: gains(held) and held["neighbours"] is False):
        state = "shortcut"
    else:
        state = "cannot tell"
    return state, TRY[state]


def convincing(held: Mapping[str, bool | None]) -> bool:
    """Whether a validation's evidence is enough for "learning"."""
    return gains(held) and False not in held.values() and list(held.values()).count(True) >= PIECES


def gains(held: Mapping[str, bool | None]) -> bool:
    """Whether held-out images have improved. Contrastive accuracy counts only if information was not measured.

    A significant contrastive accuracy may still be tiny.
    """
    first = [held.get("information"), held["neighbours"]]
    if first[0] is None:
        first.append(held.get("matching"))
    return any(first) or (first[1] is None and held.get("rank") is True)


def diagnose(metrics: Mapping[str, float]) -> dict[str, str]:
    """Problems at a validation by name, each with a sentence that says what to do.

    - ``metrics``: what :class:`simmim_pl.callbacks.Representation` logs; what is missing is not diagnosed.

    >>> diagnose({"representation/std": 0.0, "representation/directions": 1.0}).keys()
    dict_keys(['complete collapse'])
    """
    found = {}
    std, directions = metrics.get("representation/std", 1.0), metrics.get("representation/directions", FEW)
    if features_only(metrics):  # an untrained network's features may be similar too: collapse is relative to those
        std, directions = metrics["representation/feature_std"], FEW
        std = std if std < metrics.get("representation/feature_std_untrained", math.inf) / 2 else max(std, SAME)
    if not math.isfinite(std + metrics.get("representation/rankme", 1.0)):
        found["not finite"] = (
            "validation images have NaN or infinite features. Lower the learning rate, or set "
            "--trainer.precision 32-true."
        )
    elif std < SAME:
        found["complete collapse"] = (
            f"all images are at nearly the same point (spread {std:.3f}, where 1 is healthy). Lower the learning rate, "
            "and check what prevents collapse: negatives in the loss, or a predictor, a slow teacher and BatchNorm "
            "in the heads."
        )
    elif directions < FEW:
        found["dimensional collapse"] = (
            f"projections vary along {directions:.1f} directions, hardly more than a line. Lower the learning rate or "
            "a contrastive loss's temperature, or strengthen the views."
        )
    bound, ceiling = metrics.get("information/infonce", 0.0), metrics.get("information/ceiling", math.inf)
    if ceiling > ENOUGH and bound > FULL * ceiling:
        found["saturation"] = (
            f"the InfoNCE bound, {bound:.2f} nats, is at its ceiling of {ceiling:.2f}: it cannot show whether more is "
            "learned. Give Representation more images; if train/contrastive_accuracy is near 1 too, the task has "
            "become too easy: strengthen the views or enlarge the batch."
        )
    return found
