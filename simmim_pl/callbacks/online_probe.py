"""Is it learning? A linear probe and a kNN on the validation split while the encoder trains."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

from simmim_pl.callbacks.extracted import extract
from simmim_pl.callbacks.untrained import untrained
from simmim_pl.contracts import Batch, Encoder
from simmim_pl.encoders.heads import Classifier
from simmim_pl.evaluation.protocols.knn import knn_scores
from simmim_pl.runtime import distributed
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged


class OnlineProbe(Callback):
    """Logs ``val/probe`` and ``val/knn`` (top-1 in [0, 1]) at every validation of a labelled set.

    Also logged are ``val/knn_untrained``, of the encoder before its first step, which training has to improve on;
    ``val/chance``, the share of the most frequent class; and ``val/images``, the number of images evaluated. If there
    are no classes, or no training images to search for neighbours, a message says what is left out.

    The probe learns from the detached features of the training views with its own optimizer, so it changes neither the
    encoder's gradients nor its BatchNorm state. Its accuracy is for monitoring only: it was trained on changing
    features of views, which may be smaller than the images it is evaluated on. Report the accuracy of
    ``configs/evaluate/linear.yaml`` instead.

    How often validation comes is the trainer's ``check_val_every_n_epoch``.

    Args:
        lr: learning rate of the probe's Adam.
        k: number of neighbours that vote.
        temperature: of the vote, see :func:`simmim_pl.evaluation.protocols.knn.knn_scores`.
    """

    @ranged
    def __init__(self, lr: PositiveFloat = 1e-3, k: PositiveInt = 20, temperature: PositiveFloat = 0.1) -> None:
        self.lr, self.k, self.temperature = lr, k, temperature
        self.probe: Classifier | None = None
        self.restored: dict[str, Any] = {}
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.finds = False  # whether there are training images to search for neighbours
        self.before: dict[str, float] = {}  # metrics of the untrained network

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module.encoder, Encoder)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        classes = len(getattr(data, "classes", ()))  # plain DataLoaders have none
        self.probe, self.finds = None, hasattr(data, "reference_dataloader")
        if missing := " and ".join(name for name in ("classes", "reference_dataloader") if not hasattr(data, name)):
            left_out = "measures nothing" if "classes" in missing else "has no kNN"
            rank_zero_info(f"{type(data).__name__} lacks {missing}: OnlineProbe {left_out}.")
        if classes > 1:
            with torch.random.fork_rng(devices=[]):  # leaves the run's randomness alone; the same probe on every rank
                torch.default_generator.manual_seed(0)  # the CPU's only: the fork restores no other
                self.probe = Classifier(pl_module.encoder.embed_dim, classes).to(pl_module.device)
            self.optimizer = torch.optim.Adam(self.probe.parameters(), lr=self.lr)
            if self.restored:  # by --ckpt_path
                self.probe.load_state_dict(self.restored["probe"])
                self.optimizer.load_state_dict(self.restored["optimizer"])
                self.optimizer.param_groups[0]["lr"] = self.lr  # which may have been changed since
                self.before = self.restored.get("before", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is None or not self.finds or trainer.global_step > 0:
            return
        with untrained(trainer, pl_module) as steps:
            self.on_validation_epoch_start(trainer, pl_module)
            for step in steps:
                self.on_validation_batch_end(trainer, pl_module, *step)
            if self.parts:
                scores, label = self.scores(trainer, pl_module)
                self.before = {"val/knn_untrained": accuracy(scores["val/knn"], label).item()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.probe is None:
            return
        # Every rank trains on the whole batch, so the probes of all ranks stay equal.
        features = distributed.all_gather(outputs["features"].float())
        label = distributed.all_gather(outputs["label"].repeat(len(outputs["features"]) // len(outputs["label"])))
        with torch.enable_grad():
            loss = F.cross_entropy(self.probe(features), label)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        pl_module.log("train/probe_loss", loss.detach())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # a checkpoint is evaluated: its probe was restored
            self.on_fit_start(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        *_: int,
    ) -> None:
        if self.probe is not None:
            self.parts.append((outputs["features"].float(), outputs["label"]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is None or trainer.sanity_checking or not self.parts:
            return
        scores, label = self.scores(trainer, pl_module)
        for name, score in scores.items():
            pl_module.log(name, accuracy(score, label), prog_bar=True)
        chance = label.bincount().max() / len(label)
        pl_module.log_dict({**self.before, "val/images": float(len(label)), "val/chance": chance})

    def scores(self, trainer: Trainer, pl_module: LightningModule) -> tuple[dict[str, Tensor], Tensor]:
        """Class scores of all ranks' validation images, by the name of the accuracy; and the labels."""
        assert self.probe is not None
        features, label = (distributed.all_gather_uneven(torch.cat(part)) for part in zip(*self.parts, strict=True))
        self.probe.eval()
        scores = {"val/probe": self.probe(features)}
        self.probe.train()
        if self.finds:
            reference = trainer.datamodule.reference_dataloader()  # type: ignore[attr-defined]
            bank, bank_label = extract(trainer, pl_module, reference)
            k = min(self.k, len(bank))
            scores["val/knn"] = knn_scores(bank, bank_label, features, self.probe.num_classes, k, self.temperature)
        return scores, label

    def state_dict(self) -> dict[str, Any]:
        if self.probe is None:
            return {}
        return {"probe": self.probe.state_dict(), "optimizer": self.optimizer.state_dict(), "before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict


def accuracy(score: Float[Tensor, "N C"], label: Int64[Tensor, " N"]) -> Tensor:
    """Top-1."""
    return multiclass_accuracy(score, label, score.shape[1], average="micro")
