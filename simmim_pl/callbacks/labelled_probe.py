"""Does it learn what you care about? A kNN and a linear probe on labelled sets beside the training set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from simmim_pl.callbacks.extracted import extract
from simmim_pl.callbacks.online_probe import accuracy
from simmim_pl.callbacks.untrained import untrained
from simmim_pl.contracts import Batch, LabelledSet
from simmim_pl.evaluation.protocols.knn import knn_scores
from simmim_pl.evaluation.protocols.linear import linear_scores
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged

ACCURACIES = ("knn", "linear")


class LabelledProbe(Callback):
    """Evaluates the encoder on each labelled set of ``--data.labelled`` at every validation; idle without any.

    Of the set NAME are logged:

    - ``val/knn/NAME``: top-1, in [0, 1], of a kNN on its held-out images.
    - ``val/linear/NAME``: the same of logistic regression, fitted anew at every validation to convergence.
    - ``val/knn_untrained/NAME``, ``val/linear_untrained/NAME``: the same of the encoder before its first step.
    - ``val/chance/NAME``: share of the most frequent class.
    - ``val/images/NAME``: number of held-out images.

    No hyperparameter is selected, and no test split is read. Images are resized to the size of the validation images,
    and features of NaN are not evaluated. Without labels in the training set, kNN accuracy on the
    labelled sets is evidence for the verdict: see :func:`simmim_pl.metrics.evidence.neighbours`. The first measurement,
    before training, prints how long one takes; ``--data.labelled_images`` bounds it.

    Args:
        k: number of neighbours that vote.
        temperature: of the vote, see :func:`simmim_pl.evaluation.protocols.knn.knn_scores`.
        prior: strength of the linear probe's penalty, see :class:`simmim_pl.evaluation.FewLabels`.
    """

    reads_labelled_sets = True  # or a run does not load them

    @ranged
    def __init__(self, k: PositiveInt = 20, temperature: PositiveFloat = 0.1, prior: PositiveFloat = 1.0) -> None:
        self.k, self.temperature, self.prior = k, temperature, prior
        self.size: tuple[int, int] | None = None  # height and width of the validation images
        self.before: dict[str, dict[str, float]] = {}  # accuracies of the untrained network, by set

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sets = labelled_sets(trainer)
        if sets and not trainer.enable_validation:
            rank_zero_info("Labelled sets are evaluated at validations, and this run has none: LabelledProbe is idle.")
        if not sets or trainer.global_step > 0:
            return
        with untrained(trainer, pl_module) as steps:
            for _, batch, _ in islice(steps, 1):  # the first batch sets BatchNorm's statistics
                self.on_validation_batch_end(trainer, pl_module, None, batch, 0)
                since = time.perf_counter()
                for name, data in sets.items():
                    found = self.measured(trainer, pl_module, data)
                    self.before[name] = {f"{each}_untrained": found[each].item() for each in ACCURACIES if found}
                seconds = f"{time.perf_counter() - since:.1f} s"
                rank_zero_info(f"Probes on labelled sets ({', '.join(sets)}) take {seconds} at every validation.")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        height, width = batch["image"].shape[-2:]
        self.size = height, width

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for name, data in labelled_sets(trainer).items():
            found = self.measured(trainer, pl_module, data) | self.before.get(name, {})
            pl_module.log_dict({f"val/{metric}/{name}": value for metric, value in found.items()})

    def measured(self, trainer: Any, pl_module: Any, data: LabelledSet) -> dict[str, Tensor]:
        """Measurements of a set by name; empty if features are not finite."""
        (bank, label), (queries, truth) = (
            extract(trainer, pl_module, data.dataloader(part), self.size) for part in ("train", "validation")
        )
        if not (bank.isfinite().all() and queries.isfinite().all()):
            return {}
        classes, k = len(data.classes), min(self.k, len(bank))
        neighbours = knn_scores(bank, label, queries, classes, k, self.temperature)
        linear = linear_scores(bank, label, queries, classes, self.prior)
        return {
            "knn": accuracy(neighbours, truth),
            "linear": accuracy(linear, truth),
            "chance": truth.bincount().max() / len(truth),
            "images": torch.tensor(float(len(truth))),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.before

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict


def labelled_sets(trainer: Trainer) -> Mapping[str, LabelledSet]:
    """The datamodule's labelled sets by name; empty if it has none."""
    found: Mapping[str, LabelledSet] = getattr(trainer.datamodule, "labelled_sets", {})  # type: ignore[attr-defined]
    return found
