"""Report whether the run learns: in W&B at every validation, at the end of the run, and as a warning on a problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from simmim_pl.callbacks.dashboard import online
from simmim_pl.contracts import Batch
from simmim_pl.metrics import is_measurement, verdict

OF_STEPS = ("train/loss", "train/loss_at_chance")
OF_VALIDATIONS = ("representation/", "information/", "val/")


class CollapseMonitor(Callback):
    """Warns in the console, and as a W&B alert, of each alarming state, once a run.

    :func:`simmim_pl.metrics.verdict` finds the state from what :class:`simmim_pl.callbacks.Representation` and
    :class:`simmim_pl.callbacks.OnlineProbe` log. It is ``verdict`` in the summary of the W&B run, and the report shows
    it too. A run that measured nothing gets no verdict.
    """

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.validations: list[dict[str, float]] = []  # the last two
        self.logged: dict[str, float] = {}  # of the last step that was logged, which the report reads too

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self.logged.get("step"):  # not again while gradients accumulate
            self.logged = select(trainer.callback_metrics, OF_STEPS) | {"step": step}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        measured, step = select(trainer.callback_metrics, OF_VALIDATIONS), trainer.global_step
        if any(map(is_measurement, measured)):
            progress = step / trainer.estimated_stepping_batches
            self.evaluate(trainer, self.logged | measured | {"step": step, "train/progress": progress})

    def evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Find the verdict after a validation with these metrics, and report it."""
        self.validations = [*self.validations[-1:], metrics]
        found = verdict(self.validations)
        for run in online(trainer):
            run.summary.update({"verdict": found.state, "verdict_evidence": str(found)})
        if found.alarming and found.state not in self.raised:
            self.raised.append(found.state)
            self.alert(trainer, f"{found.state} at step {trainer.global_step}", str(found))

    def alert(self, trainer: Trainer, title: str, sentence: str) -> None:
        """Warn in the console and in W&B."""
        rank_zero_warn(f"{title[0].upper()}{title[1:]}: {sentence}")
        for run in online(trainer):
            run.alert(title=title, text=sentence, level="WARN")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.validations:
            found = verdict(self.validations)
            rank_zero_info(f"Is it learning? Verdict: {found.state}. {found}")

    def state_dict(self) -> dict[str, Any]:
        return {"raised": self.raised, "validations": self.validations, "logged": self.logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.raised, self.validations = list(state_dict["raised"]), list(state_dict.get("validations", []))
        self.logged = dict(state_dict.get("logged", {}))


def select(metrics: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, float]:
    """The metrics whose names start with one of ``names``."""
    return {name: float(value) for name, value in metrics.items() if name.startswith(names)}
