"""Linear probe on augmented images: the literature's protocol, its learning rates swept in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from simmim_pl.contracts import Views
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.protocol import Protocol, by_name
from simmim_pl.evaluation.protocols.linear import moments
from simmim_pl.evaluation.result import Result
from simmim_pl.evaluation.training import LRSearch, choose


class AugmentedProbe(Protocol):
    """Accuracy on test of a linear classifier that SGD or Adam trained on random views of the training images.

    A step encodes its views once, with the frozen encoder, for the classifiers of all learning rates; validation
    chooses among them after the last epoch. Features are standardised by those of the clean training images. Unlike
    :class:`simmim_pl.evaluation.LinearProbe` it does not learn from validation images afterwards.

    Args:
        views: makes one view of each image, such as :class:`simmim_pl.views.CropFlip`.
        lr_search: how the classifiers are trained, see :class:`simmim_pl.evaluation.training.LRSearch`.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    def __init__(
        self,
        views: Views,
        lr_search: LRSearch = LRSearch(lr=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.views, self.lr_search = views, lr_search

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        context.require_stills()
        context.require_validation()
        classes = context.classes()
        clean, validation, test = (context.features(split) for split in ("train", "validation", "test"))
        mean, scale = moments(clean[0])
        steps = context.steps("train")

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            what = f"linear probe, epoch {epoch + 1} of {self.lr_search.epochs}"
            for step, batch in enumerate(context.watched(context.batches("train", epoch), what, steps)):
                view = self.views(batch["image"], context.generator(epoch * steps + step))[0]
                yield (context.encode(view).pooled - mean) / scale, batch["label"]

        def head() -> nn.Module:
            return zero_linear(clean[0].shape[1], len(classes))

        heads = self.lr_search.train(head, batches, steps, context.batch("train"), context)
        accuracy = {
            lr: (predict(classifier, (validation[0] - mean) / scale) == validation[1]).float().mean().item()
            for lr, classifier in heads.items()
        }
        chosen = choose(accuracy, heads)
        predicted = predict(heads[chosen], (test[0] - mean) / scale)
        explained = {"lr": chosen, "validation accuracy by lr": by_name(accuracy)}
        return [replace(classification(predicted[None], test[1], classes), chosen=explained)]


def zero_linear(width: int, classes: int) -> nn.Linear:
    """A linear classifier whose weights start at zero."""
    layer = nn.Linear(width, classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@torch.no_grad()
def predict(classifier: nn.Module, features: Float[Tensor, "N *T D"]) -> Tensor:
    """Class of each item, ``[N]``."""
    return torch.cat([classifier(part).argmax(1) for part in features.split(4096)])
