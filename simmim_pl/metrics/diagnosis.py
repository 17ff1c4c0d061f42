"""Healthy, collapsed or saturated: what a run's own measurements say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

SAME = 0.03  # of representation/std, near 1 when images spread over the sphere: below it all are at one point
FEW = 1.7  # directions: with fewer, more than three quarters of the projections' variance are along one line
FULL, ENOUGH = 0.98, math.log(100)  # of its ceiling, the bound says how many images it saw, if not a handful


def diagnose(metrics: Mapping[str, float]) -> dict[str, str]:
    """What is wrong, by its name, each in a sentence that says what to do; nothing for a healthy run.

    - ``metrics``: what :class:`simmim_pl.callbacks.Representation` logs; what is missing is taken for healthy.

    >>> diagnose({"representation/std": 0.0, "representation/directions": 1.0}).keys()
    dict_keys(['complete collapse'])
    """
    found = {}
    std, directions = metrics.get("representation/std", 1.0), metrics.get("representation/directions", FEW)
    if not math.isfinite(std + metrics.get("representation/rankme", 1.0)):
        found["not finite"] = (
            "validation images have NaN or infinite features. Lower the learning rate, or set "
            "--trainer.precision 32-true."
        )
    elif std < SAME:
        found["complete collapse"] = (
            f"all images are at nearly the same point (spread {std:.3f}, where 1 is healthy). Lower the learning rate, "
            "and see that the loss pushes images apart."
        )
    elif directions < FEW:
        found["dimensional collapse"] = (
            f"projections vary along {directions:.1f} directions, hardly more than a line. Lower the temperature or "
            "the learning rate, or strengthen the views."
        )
    bound, ceiling = metrics.get("information/infonce", 0.0), metrics.get("information/ceiling", math.inf)
    if ceiling > ENOUGH and bound > FULL * ceiling:
        found["saturation"] = (
            f"the InfoNCE bound, {bound:.2f} nats, is at its ceiling of {ceiling:.2f}: it cannot say whether more is "
            "learned. Ask more images of Representation; and if train/contrastive_accuracy is near 1 too, telling them "
            "apart has become too easy: strengthen the views or enlarge the batch."
        )
    return found
