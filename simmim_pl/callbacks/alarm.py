"""Says so, once and with the step, when a run collapses, or when its bound can say no more."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from simmim_pl.metrics import diagnose


class Alarm(Callback):
    """Warns in the console, and as a W&B alert, of what is found at two validations in a row.

    :func:`simmim_pl.metrics.diagnose` finds it, and each kind is told once a run. A network that has hardly begun may
    look collapsed, so one validation is not enough.
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
