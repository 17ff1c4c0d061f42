"""Video probe: frozen features of the frames, pooled over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import InputError
from simmim_pl.evaluation.context import EvaluationContext, Labelled
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.protocol import Protocol, by_name
from simmim_pl.evaluation.protocols.augmented import predict
from simmim_pl.evaluation.protocols.linear import moments, probe, strongest_first
from simmim_pl.evaluation.result import Result
from simmim_pl.evaluation.training import LRSearch, choose
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, ranged


class VideoProbe(Protocol):
    """Clip accuracy on test from frozen features of the frames, three times, each seeing more of the clip:

    - ``one frame``: a linear probe on the middle frame: needs no video.
    - ``mean of frames``: a linear probe on the mean over time, which the order of the frames does not change.
    - ``temporal head``: a convolution over three frames, the mean over time, a linear classifier. Its learning rate is
      chosen on validation after the last epoch.

    Args:
        l2: candidate penalties of the linear probes, see :class:`simmim_pl.evaluation.LinearProbe`.
        hidden: channels of the temporal head.
        lr_search: how the temporal head is trained, see :class:`simmim_pl.evaluation.training.LRSearch`.
        data: a data set of clips to evaluate on; by default the run's ``--data``.
    """

    @ranged
    def __init__(
        self,
        l2: Sequence[PositiveFloat] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        hidden: PositiveInt = 128,
        lr_search: LRSearch = LRSearch(lr=(1e-3, 3e-3, 1e-2), optimizer="adam", weight_decay=0.05, epochs=30),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.l2, self.hidden, self.lr_search = strongest_first(l2), hidden, lr_search

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        if not context.data.splits["train"].dataset.clips:
            raise InputError(
                f"{context.data.source.name} holds images, and a video probe needs clips: see configs/data/clips.yaml."
            )
        context.require_validation()
        classes = context.classes()
        splits = [context.features(split) for split in ("train", "validation", "test")]
        frame = splits[0][0].shape[1] // 2
        pooled: dict[str, Callable[[Tensor], Tensor]] = {
            "one frame": lambda features: features[:, frame],
            "mean of frames": lambda features: features.mean(1),
        }
        results = []
        for variant, pool in pooled.items():
            train, validation, test = ((pool(features), labels) for features, labels in splits)
            results.append(replace(probe(train, validation, test, classes, self.l2), variant=variant))
        return [*results, self.temporal(context, splits, classes)]

    def temporal(self, context: EvaluationContext, splits: Sequence[Labelled], classes: list[str]) -> Result:
        """Train the temporal head on standardised features of the training clips. Every rank has all features."""
        mean, scale = moments(splits[0][0].flatten(0, 1))
        (train, labels), validation, test = [((features - mean) / scale, labels) for features, labels in splits]
        size = min(context.data.batch_size, len(train))  # to which learning rates are scaled
        steps = -(-len(train) // size)

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(1000 * context.seed + epoch)  # the same order on every rank
            order = torch.randperm(len(train), generator=generator).to(train.device)
            what = f"temporal head, epoch {epoch + 1} of {self.lr_search.epochs}"
            for rows in context.watched(order.split(size), what, steps):
                yield train[rows], labels[rows]

        def head() -> nn.Module:
            return TemporalHead(train.shape[2], self.hidden, len(classes))

        heads = self.lr_search.train(head, batches, steps, size, context)
        tried = {lr: predict(each, validation[0]) == validation[1] for lr, each in heads.items()}
        accuracy = {lr: right.float().mean().item() for lr, right in tried.items()}
        chosen = choose(accuracy, heads)
        result = classification(predict(heads[chosen], test[0])[None], test[1], classes)
        explained = {"lr": chosen, "validation accuracy by lr": by_name(accuracy)}
        return replace(result, chosen=explained, variant="temporal head")


class TemporalHead(nn.Module):
    """A convolution over three frames, ReLU, the mean over time, a linear classifier. It can use motion.

    Args:
        width: D, length of a frame's features.
        hidden: channels of the convolution.
        classes: C.
    """

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, hidden, kernel_size=3, padding=1)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, frames: Float[Tensor, "B T D"]) -> Float[Tensor, "B C"]:
        hidden = F.relu(self.convolution(frames.mT)).mean(2)
        logits: Tensor = self.classifier(hidden)
        return logits
