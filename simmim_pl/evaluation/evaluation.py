"""Evaluate encoders by protocols, on one data set or many: a ``validate`` of the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.evaluation import card
from simmim_pl.evaluation.adapted import adapted
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import RawPixels, subjects
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.result import require_results
from simmim_pl.runtime.checkpoint import Network
from simmim_pl.runtime.ranges import Seed, ranged


class Evaluation(LightningModule):
    """Evaluates a frozen encoder and its baselines, the same architecture untrained and raw pixels, in one table.

    The encoder comes from a checkpoint of this package, or is given: one of this package, or ``Timm`` or
    ``Torchvision`` by name, with its weights or those of another tool's file. It must not change while it is evaluated:
    parameters, buffers and plain attributes are compared before and after. Results are written only after everything
    was evaluated.

    Args:
        protocols: how to evaluate; each on the run's ``--data`` unless it names its own.
        checkpoint: path of a checkpoint that ``fit`` wrote.
        network: which encoder of the checkpoint: ``online``, which the optimizer trained, or ``teacher``, its moving
            average in methods such as BYOL. The table says which.
        encoder: an encoder to evaluate as it is, instead of a checkpoint.
        weights: path of a state dict that another tool saved, to load into ``encoder``.
        baselines: evaluate raw pixels and, of a checkpoint, the same architecture untrained, too; with ``weights``,
            the encoder as it was before they were loaded.
        layer: a layer of the encoder to evaluate instead of its output, such as ``net.block2``; the error for a wrong
            name lists all. The untrained network is evaluated at the same layer.
        transfer: further data sets on which protocols without their own evaluate too.
        allow: class paths outside simmim_pl that the checkpoint may name and have imported.
        cache: keep extracted features in RUNS/.features, by encoder, data and precision. Delete it at any time.
        seed: of a checkpoint's untrained encoder and of whatever a protocol draws.
    """

    # Trainer arguments that the user did not set. Protocols read whole splits themselves, once. (A limit of 1 in YAML
    # would be read as 1.0, all batches.)
    trainer_defaults: ClassVar[dict[str, Any]] = {
        **{"limit_train_batches": 2, "limit_val_batches": 2, "limit_test_batches": 2},
        **{"num_sanity_val_steps": 0, "enable_checkpointing": False, "enable_model_summary": False},
    }

    @ranged
    def __init__(
        self,
        protocols: list[Protocol],
        checkpoint: str | None = None,
        encoder: Encoder | None = None,
        weights: str | None = None,
        baselines: bool = True,
        layer: str | None = None,
        transfer: Sequence[LightningDataModule] = (),
        allow: Sequence[str] = (),
        cache: bool = True,
        seed: Seed = 0,
        network: Network = "online",
    ) -> None:
        super().__init__()
        if not protocols:
            raise InputError("An evaluation needs at least one protocol: see configs/evaluate/.")
        of_all = [type(protocol).__name__ for protocol in protocols if not protocol.supports_layer]
        if layer is not None and of_all:
            raise InputError(f"{of_all[0]} evaluates the whole network: remove --model.layer.")
        self.automatic_optimization = False
        self.protocols, self.transfer = protocols, list(transfer)
        self.checkpoint, self.cache, self.seed = checkpoint, cache, seed
        # A plain dict, so they are no submodules: each is on the device only while it is evaluated.
        self.subjects: dict[str, Encoder] = subjects(
            checkpoint, encoder, weights, baselines, allow, seed, network, layer
        )
        self.unused = nn.Parameter(torch.zeros(()))  # DDP refuses a module without a trainable parameter
        self.card: dict[str, Any] = {}
        self.sets: dict[int, Any] = {}  # by the datamodule's id, what evaluations read of it

    # Lightning's own loop sees two batches (limit_val_batches in configs/evaluate/): protocols read whole splits.

    def configure_optimizers(self) -> None:
        """Nothing is trained by the trainer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """See above."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """See above."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """See above."""

    def on_train_epoch_end(self) -> None:
        self.evaluate()
        self.trainer.should_stop = True  # once is enough, whatever --trainer.max_epochs is

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.evaluate()

    def on_test_epoch_end(self) -> None:
        self.evaluate()

    def prepare_data(self) -> None:
        for data in self.further_data():
            data.prepare_data()

    def setup(self, stage: str) -> None:
        sets: list[Any] = [self.trainer.datamodule, *self.further_data()]  # type: ignore[attr-defined]
        for data in sets:
            data.setup("fit")
            data.setup("test")
        self.sets = {id(data): adapted(data) for data in sets}
        if getattr(sets[0], "labelled_sets", None):
            rank_zero_info("--data.labelled is for fit: to evaluate on a set, give it as --data or --model.transfer.")
        if not len(self.sets[id(sets[0])].splits["validation"]):
            # With no validation batch, Lightning would skip its loop, and with it the evaluation.
            raise InputError("The validation split is empty, and evaluations select on it: set --data.validation.")
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise InputError(
                f"Evaluations run in 32-true or bf16-mixed, not in {self.trainer.precision}: set --trainer.precision."
            )

    def further_data(self) -> list[LightningDataModule]:
        """Data sets in addition to the run's."""
        return [*self.transfer, *(protocol.data for protocol in self.protocols if protocol.data is not None)]

    def plan(self) -> list[tuple[Any, str, list[Protocol]]]:
        """Triples of data set, encoder and protocols, grouped so that protocols share extracted features."""
        here = [protocol for protocol in self.protocols if protocol.data is None]
        stops = [(data, here) for data in (self.trainer.datamodule, *self.transfer)]  # type: ignore[attr-defined]
        stops += [(protocol.data, [protocol]) for protocol in self.protocols if protocol.data is not None]
        return [
            (self.sets[id(data)], name, fit)
            for data, protocols in stops
            for name, encoder in self.subjects.items()
            if (fit := [each for each in protocols if each.supports_raw_pixels or not isinstance(encoder, RawPixels)])
        ]

    @torch.inference_mode(False)  # protocols compute gradients
    def evaluate(self) -> None:
        """Run every protocol on every encoder and publish the card."""
        started, entries, plan = time.perf_counter(), [], self.plan()
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        with tqdm(total=sum(len(stop[2]) for stop in plan), desc="evaluation", disable=not shown) as bar:
            for data, name, protocols in plan:
                encoder = self.subjects[name].to(self.device)
                context = self.context(data, name, encoder, shown)
                watch = context.watch
                for protocol in protocols:
                    bar.set_postfix_str(f"{type(protocol).__name__} of {name} on {context.data.source.name}")
                    since = time.perf_counter()
                    results = require_results(protocol.evaluate(context), type(protocol).__name__)
                    seconds = (time.perf_counter() - since) / len(results)
                    entries += [card.entry(context, protocol, result, seconds) for result in results]
                    bar.update()
                watch.check()
                encoder.cpu()
        sets = {id(data): data for data, _, _ in plan}
        self.card = card.publish(
            self.trainer, self.checkpoint, self.subjects, list(sets.values()), entries, self.seed, started
        )

    def context(self, data: Any, name: str, encoder: Encoder, shown: bool) -> EvaluationContext:
        """What protocols work with, for one encoder and one data set."""
        cached = self.cache and self.trainer.loggers and self.trainer.log_dir
        return EvaluationContext(
            encoder=encoder,
            data=data,
            name=name,
            device=self.device,
            precision=self.trainer.precision_plugin.forward_context,
            seed=self.seed,
            cache=Path(cached).parent.parent / ".features" if cached else None,
            progress=shown,
        )
