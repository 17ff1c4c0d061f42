"""What a training step costs: FLOP, memory, bytes on the wire. docs/scaling.md states it, scaling.py measures it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from flops import parts, step, update
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SAMPLE = 16  # images from which the memory per image is computed


@dataclass(frozen=True)
class Cost:
    """The cost of a config. Bytes are for float32, except for activations, which are as autocast stores them.

    Attributes:
        flop: FLOP per image, all views, forward and backward.
        update: FLOP of the optimizer's step, the same for every rank.
        moments: bytes of optimizer state.
        saved: bytes per image stored for the backward pass.
        parameters: N.
        channels: C, of all BatchNorm layers.
        layers: L, BatchNorm layers.
        rows: bytes of an image's projections.
    """

    flop: float
    update: float
    moments: int
    saved: float
    parameters: int
    channels: int
    layers: int
    rows: int

    def wire(self, ranks: int, batch: int) -> float:
        """Bytes that all ranks together send per step: gradients, projections, BatchNorm, and small messages."""
        reduced = 4 * self.parameters  # DDP's all-reduce of gradients
        reduced += batch * self.rows  # the gather's backward
        reduced += 2 * 4 * self.channels  # BatchNorm's two sums in the backward pass
        gathered = 2 * batch * self.rows  # projections, for the loss and for the contrastive accuracy
        gathered += 2 * 4 * self.channels * ranks  # BatchNorm's mean and variance in the forward pass
        buffers = 4 * (2 * self.channels + 6) + 8 * self.layers
        return 2 * (ranks - 1) * reduced + (ranks - 1) * (gathered + buffers)

    def memory(self, ranks: int, batch: int) -> float:
        """Bytes of a rank above the baseline: weights, gradients, DDP; moments; activations; rows."""
        held = (8 if ranks == 1 else 12) * self.parameters + self.moments
        return held + self.saved * batch / ranks + 2 * batch * self.rows

    def seconds(self, ranks: int, batch: int, speed: float, cores: int, latency: float, bandwidth: float) -> float:
        """Seconds per step with one thread per rank, without overlap: the network on available cores, then messages.

        - ``speed``: FLOP/s that a core reaches in this network.
        - ``latency``: seconds per message between computing ranks; BatchNorm waits for two per layer.
        - ``bandwidth``: bytes/s of all ranks together.
        """
        computing = (self.flop * batch + self.update * ranks) / (speed * min(ranks, cores))
        if ranks == 1:
            return computing
        return computing + 2 * self.layers * latency + self.wire(ranks, batch) / bandwidth


def cost(path: Path) -> Cost:
    """The cost of a config, from its parts."""
    config = yaml.safe_load(path.read_text())
    config["data"]["init_args"]["final_views"] = None  # the cost of a step before them
    model, data = parts(config)
    of_update, moments = update(model)
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    makers = [maker for maker in (data.views, data.local_views) if maker is not None]
    width = [part for part in model.head.modules() if isinstance(part, nn.Linear)][-1].out_features
    return Cost(
        flop=(step(config) - of_update) / data.batch_size,
        update=of_update,
        moments=moments,
        saved=(saved(model, makers, 2 * SAMPLE) - saved(model, makers, SAMPLE)) / SAMPLE,  # without the weights
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        channels=sum(part.num_features for part in norms),
        layers=len(norms),
        rows=sum(each.views for each in makers) * 4 * width,
    )


def saved(model: Any, makers: list[Any], images: int) -> int:
    """Bytes that autograd stores between forward and backward of a batch, including views, each storage once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        for each in makers:
            model.embed(keep(torch.rand(each.views, images, 3, each.size, each.size)))
    return sum(storage.nbytes() for storage in kept.values())
