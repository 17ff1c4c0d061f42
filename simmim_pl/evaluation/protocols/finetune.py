"""Fine-tuning: the whole network learns the labels, early layers more slowly than late ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Views
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
from simmim_pl.runtime.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Share, ranged
from simmim_pl.runtime.schedule import REFERENCE_BATCH
from simmim_pl.runtime.seeding import derive_seed
from simmim_pl.runtime.sync_batchnorm import convert_sync_batchnorm


class FineTune(Protocol):
    """Accuracy on test of a copy of the encoder that was trained further, whole, with a linear classifier on top.

    The learning rate falls from layer to layer towards the image (Clark et al. 2020, arXiv 2003.10555, section 3.1; for
    images Bao et al. 2021, arXiv 2106.08254). AdamW, linear warm-up, then cosine; the last epoch counts. With several
    ``lr``, validation chooses, after the last epoch of each. The untrained encoder beside it is the same network
    trained from scratch on the same labels.

    Args:
        views: makes one view of each training image, such as :class:`simmim_pl.views.CropFlip`.
        lr: learning rates of the classifier, for 256 images a step; candidates.
        layer_decay: factor on the learning rate from one layer to the one before.
        weight_decay: of AdamW; biases and normalisation are spared.
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

        with torch.random.fork_rng():  # dropout and stochastic depth: of this seed, whatever ran before
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
        classes: C.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = zero_linear(encoder.embed_dim, classes)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        logits: Tensor = self.classifier(self.encoder(image).pooled)
        return logits


def predict(network: Tuned, context: EvaluationContext, split: str) -> tuple[Tensor, Tensor]:
    """Predicted and true class of every image of a split, in the data set's order."""
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch in context.watched(context.batches(split), f"predictions of {split}", context.passes(split)):
            with context.precision():
                predicted = network(batch["image"].float() / 255).argmax(1)
            parts.append((predicted, batch["label"], batch["index"]))
    predicted, labels, index = (distributed.all_gather_uneven(torch.cat(column)) for column in zip(*parts, strict=True))
    order = index.argsort()
    return predicted[order], labels[order]


def layer_groups(network: Tuned, decay: float, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: ``lr · decay^d`` for a layer d below the classifier; no weight decay on biases and norms."""
    stages = [*layers(network.encoder), [*network.classifier.parameters()]]
    groups = []
    for below, parameters in enumerate(reversed(stages)):
        rate = lr * decay**below
        decayed, spared = ([p for p in parameters if (p.ndim > 1) == wide] for wide in (True, False))
        groups += [{"params": decayed, "lr": rate, "weight_decay": weight_decay}] if decayed else []
        groups += [{"params": spared, "lr": rate, "weight_decay": 0.0}] if spared else []
    return groups


def layers(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """An encoder's parameters by layer, from the image up: its blocks in order, however they are nested.

    A block is a child of the innermost module that holds all parameters; of a stack among its children, see
    :func:`unstack`, a block within. What has no weight matrix of its own, such as a norm between two blocks, belongs to
    the block before.
    """
    trunk = encoder
    while len(inner := [child for child in trunk.children() if any(True for _ in child.parameters())]) == 1:
        trunk = inner[0]
    blocks = [block for child in inner for block in unstack(child)]
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    found = [[parameter for parameter in encoder.parameters() if id(parameter) not in inside]]  # such as a class token
    for block in blocks:
        own = list(block.parameters())
        if has_matrix(own) and has_matrix(found[-1]):
            found.append(own)
        else:
            found[-1] += own
    return found


def unstack(module: nn.Module) -> list[nn.Module]:
    """The blocks of a sequence, or of a module that holds a sequence of two or more blocks of one kind; else itself."""
    sequences = [part for part in (module, *module.children()) if isinstance(part, (nn.Sequential, nn.ModuleList))]
    repeats = any(len(part) > 1 and len({type(block) for block in part}) == 1 for part in sequences)
    if module in sequences or repeats:
        return [block for child in module.children() for block in unstack(child)]
    return [module]


def has_matrix(parameters: list[nn.Parameter]) -> bool:
    """Whether there is a weight matrix, a kernel or an embedding among them."""
    return any(parameter.ndim > 1 for parameter in parameters)
