"""Says so, once and with the step, when a run collapses or cannot learn more from its batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

SAME = -0.05  # uniformity, which is below −1 when images spread over the sphere: above it all lie at one point
FEW = 3.0  # directions: with fewer, projections lie on a line or a circle
FULL = 0.98  # of the ceiling: above it the bound says how many images it saw, no more what their views share


def diagnose(metrics: Mapping[str, float]) -> dict[str, str]:
    """What is wrong, by its name, each in a sentence that says what to do; nothing for a healthy run.

    - ``metrics``: what :class:`simmim_pl.callbacks.Representation` logs; what is missing is taken for healthy.

    >>> diagnose({"representation/uniformity": 0.0, "representation/projections_rankme": 1.0}).keys()
    dict_keys(['complete collapse'])
    """
    found = {}
    uniformity = metrics.get("representation/uniformity", -math.inf)
    rank = metrics.get("representation/projections_rankme", math.inf)
    if uniformity > SAME:
        found["complete collapse"] = (
            f"the views of all images lie at one point (uniformity {uniformity:.3f}, where −1 and below is healthy). "
            "Lower the learning rate, and see that the loss pushes images apart."
        )
    elif rank < FEW:
        found["dimensional collapse"] = (
            f"projections use {rank:.1f} directions, a line or a circle. Lower the learning rate or the temperature, "
            "or strengthen the views."
        )
    bound, ceiling = metrics.get("information/infonce", 0.0), metrics.get("information/ceiling", math.inf)
    if bound > FULL * ceiling:
        found["saturation"] = (
            f"the InfoNCE bound, {bound:.2f} nats, is at its ceiling of {ceiling:.2f}: telling images apart has become "
            "too easy to teach anything. Strengthen the views, or stop here."
        )
    return found


class Alarm(Callback):
    """Warns in the console, and as a W&B alert, when :func:`diagnose` finds something at two validations in a row.

    Each kind is told once a run. A network that has hardly begun may look collapsed, so one validation is not enough.
    It reads what :class:`simmim_pl.callbacks.Representation` logs, so it comes after it in the list of callbacks.
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
