"""Fine-tuning: the whole network learns the labels, early layers more slowly than late ones."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, InputError, Views
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import classification
from simmim_pl.evaluation.protocol import Protocol, by_name
from simmim_pl.evaluation.protocols.augmented import zero_linear
from simmim_pl.evaluation.result import Result
from simmim_pl.evaluation.training import (
    choose,
    make_optimizer,
    require_some,
    train,
)
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Share, ranged
from simmim_pl.runtime.schedule import REFERENCE_BATCH, without_weight_decay
from simmim_pl.runtime.seeding import derive_seed
from simmim_pl.runtime.sync_batchnorm import convert_sync_batchnorm


class FineTune(Protocol):
    """Accuracy on test after fine-tuning all weights of a copy of the encoder, with a linear classifier on top.

    The learning rate falls from layer to layer towards the image (Clark et al. 2020, arXiv 2003.10555, section 3.1; for
    images Bao et al. 2021, arXiv 2106.08254). AdamW, linear warm-up, then cosine; the last epoch counts. With several
    ``lr``, validation chooses, after the last epoch of each. The untrained encoder in its table is the same network
    trained from scratch on the same labels.

    Args:
        views: makes one view of each training image, such as :class:`simmim_pl.views.CropFlip`.
        lr: learning rates of the classifier, for 256 images per step; candidates.
        layer_decay: factor on the learning rate from one layer of
            :meth:`simmim_pl.contracts.Encoder.decay_layers` to the one before; 1 for the same of all. SimMIM's authors
            use 0.65 to 0.9.
        weight_decay: of AdamW; biases, normalisation, tokens and positions are spared.
        epochs: passes over the training images.
        warmup_epochs: of linear warm-up, counted in steps.
        data: the data set to evaluate on; by default the run's ``--data``.
    """

    supports_raw_pixels = supports_layer = False

    @ranged
    def __init__(
        self,
        views: Views,
        lr: Sequence[PositiveFloat] = (2e-3,),
        layer_decay: Share = 0.8,
        weight_decay: NonNegativeFloat = 0.05,
        epochs: PositiveInt = 10,
        warmup_epochs: NonNegativeFloat = 1.0,
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        require_some(lr)
        self.views, self.lr, self.layer_decay = views, lr, layer_decay
        self.weight_decay, self.epochs, self.warmup_epochs = weight_decay, epochs, warmup_epochs

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        context.require_stills()
        if len(set(self.lr)) > 1:
            context.require_validation()
        classes = context.classes()
        networks = {lr: self.tuned(context, lr, len(classes)) for lr in sorted(self.lr)}
        accuracy: dict[float, float] = {}
        if len(networks) > 1:
            for lr, network in networks.items():
                predicted, labels = predict(network, context, "validation")
                accuracy[lr] = (predicted == labels).float().mean().item()
        chosen = choose(accuracy or dict.fromkeys(networks, 0.0), networks)
        predicted, labels = predict(networks[chosen], context, "test")
        explained: dict[str, Any] = {"lr": chosen}
        if len(networks) > 1:
            explained["validation accuracy by lr"] = by_name(accuracy)
        return [replace(classification(predicted[None], labels, classes), chosen=explained)]

    def tuned(self, context: EvaluationContext, lr: float, classes: int) -> Tuned:
        """Train a copy of the encoder."""
        network = Tuned(copy.deepcopy(context.encoder).requires_grad_(True), classes).to(context.device)
        convert_sync_batchnorm(network, context.device)
        peak = lr * context.batch("train") / REFERENCE_BATCH
        groups = layer_groups(network, self.layer_decay, peak, self.weight_decay)
        optimizer = make_optimizer("adam", groups, peak, self.weight_decay)
        steps = context.steps("train")

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            what = f"fine-tuning at {lr:g}, epoch {epoch + 1} of {self.epochs}"
            for step, batch in enumerate(context.watched(context.batches("train", epoch), what, steps)):
                yield self.views(batch["image"], context.generator(epoch * steps + step))[0], batch["label"]

        with torch.random.fork_rng():  # dropout and stochastic depth depend on this seed only
            torch.manual_seed(derive_seed(context.seed, 0, f"network {distributed.rank()}"))
            train(
                *([network], [optimizer], batches, self.epochs, steps),
                warmup=round(self.warmup_epochs * steps),
                precision=context.precision,
            )
        return network


class Tuned(nn.Module):
    """An encoder and a linear classifier on its pooled features.

    Args:
        encoder: the encoder.
        classes: K.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = zero_linear(encoder.embed_dim, classes)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        logits: Tensor = self.classifier(self.encoder(image).pooled)
        return logits


def predict(network: Tuned, context: EvaluationContext, split: str) -> tuple[Tensor, Tensor]:
    """Predicted and true class of every image of a split, in the data set's order."""
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch in context.watched(context.batches(split), f"predictions of {split}", context.passes(split)):
            with context.precision():
                predicted = network(as_float(batch["image"])).argmax(1)
            parts.append((predicted, batch["label"], batch["index"]))
    predicted, labels, index = (distributed.all_gather_uneven(torch.cat(column)) for column in zip(*parts, strict=True))
    order = index.argsort()
    return predicted[order], labels[order]


def layer_groups(network: Tuned, decay: float, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with learning rate ``lr · decay^d``, d layers below the classifier; some without weight decay.

    Layers are those of ``encoder.decay_layers()``. Parameters before the first, such as patch embedding and tokens,
    count as one more layer; those between two, such as a norm, belong to the earlier one; those after the last belong
    to the classifier.

    Raises:
        InputError: the encoder names no layers, and their learning rates are to differ.
    """
    names, spared = network.encoder.decay_layers(), without_weight_decay(network)
    if not names and decay < 1:
        raise InputError(f"{type(network.encoder).__name__} names no layers, so layer_decay has to be 1.")
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    layer, top = 0, len(names) + 1
    for name, parameter in network.named_parameters():
        inside = [number for number, place in enumerate(names, 1) if name.startswith(f"encoder.{place}.")]
        layer = inside[0] if inside else layer if layer < len(names) else top
        groups[top - layer, parameter not in spared].append(parameter)
    return [
        {"params": parameters, "lr": lr * decay**below, "weight_decay": weight_decay * decayed}
        for (below, decayed), parameters in groups.items()
    ]
