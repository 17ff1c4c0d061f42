"""Validate the network before its first step, as a baseline for the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from simmim_pl.callbacks.projections import lacking, projections
from simmim_pl.contracts import Batch

Step = tuple[Any, Batch, int]  # a validation batch's outputs, the batch, its number


@contextmanager
def untrained(trainer: Trainer, module: Any) -> Iterator[Iterator[Step]]:
    """Yield the outputs of a validation, batch by batch; nothing if there is none. The run's state stays bit-identical.

    BatchNorm's running statistics are set to those of the first batch. Their initial values fit no images: a network
    that never learns would seem to improve, only because its statistics adapt.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), as_it_was(module):
        module.eval()
        yield steps(trainer, module)


def steps(trainer: Any, module: Any) -> Iterator[Step]:
    """Validation's batches, on this rank as it will see them."""
    if not trainer.enable_validation:
        return
    trainer.validating = True  # as Lightning does before training: it sets up the loaders of its current stage
    trainer.fit_loop.epoch_loop.val_loop.setup_data()
    trainer.training = True
    for number, rows in enumerate(islice(trainer.val_dataloaders, trainer.num_val_batches[0])):
        batch: Any = {name: value.to(module.device, non_blocking=True) for name, value in rows.items()}
        if number == 0:
            settle(trainer, module, batch)
        with trainer.precision_plugin.forward_context():
            outputs = module.validation_step(batch, number)
        yield outputs, batch, number


def settle(trainer: Any, module: Any, batch: Batch) -> None:
    """Set BatchNorm's running statistics to those of a batch's views, else of its images; over ranks as in training."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if len(batch["image"]) < 2 or not norms:  # of one value there is no variance
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if lacking(trainer, module):
        module.validation_step(batch, 0)
    else:
        projections(trainer, module, batch["image"], 0)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


@contextmanager
def as_it_was(module: torch.nn.Module) -> Iterator[None]:
    """Restore buffers and train or eval modes at the end."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for buffer, before in buffers.items():
            buffer.copy_(before)
        for part, mode in modes.items():
            part.training = mode
