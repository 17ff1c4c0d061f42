"""Says so, once and with the step, when a run collapses, or when its bound can say no more."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

SAME = 0.03  # of representation/std, near 1 when images spread over the sphere: below it all are at one point
FEW = 1.4  # directions: with fewer, nine tenths of the projections' variance is along one line
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
            f"projections vary along {directions:.1f} directions, nearly a line. Lower the temperature or the learning "
            "rate, or strengthen the views."
        )
    bound, ceiling = metrics.get("information/infonce", 0.0), metrics.get("information/ceiling", math.inf)
    if ceiling > ENOUGH and bound > FULL * ceiling:
        found["saturation"] = (
            f"the InfoNCE bound, {bound:.2f} nats, is at its ceiling of {ceiling:.2f}: it cannot say whether more is "
            "learned. Ask more images of Representation; and if train/contrastive_accuracy is near 1 too, telling them "
            "apart has become too easy: strengthen the views or enlarge the batch."
        )
    return found


class Alarm(Callback):
    """Warns in the console, and as a W&B alert, when :func:`diagnose` finds something at two validations in a row.

    Each kind is told once a run. A network that has hardly begun may look collapsed, so one validation is not enough.
    It reads what :class:`simmim_pl.callbacks.Representation` logs.
    """

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.suspected: list[str] = []  # at the last validation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        found = self.judge({name: float(value) for name, value in trainer.callback_metrics.items()})
        for name, sentence in found.items():
            self.alert(trainer, f"{name} at step {trainer.global_step}", sentence)

    def judge(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """What is to be said after a validation."""
        found = diagnose(metrics)
        new = [name for name in found if name in self.suspected and name not in self.raised]
        self.raised += new
        self.suspected = list(found)
        return {name: found[name] for name in new}

    def alert(self, trainer: Trainer, title: str, sentence: str) -> None:
        """In the console, and in W&B."""
        rank_zero_warn(f"{title[0].upper()}{title[1:]}: {sentence}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.alert(title=title, text=sentence, level="WARN")

    def state_dict(self) -> dict[str, list[str]]:
        return {"raised": self.raised, "suspected": self.suspected}

    def load_state_dict(self, state_dict: dict[str, list[str]]) -> None:
        self.raised, self.suspected = list(state_dict["raised"]), list(state_dict["suspected"])
