"""One LightningDataModule for every source: splits, batches, and views made on the device."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from simmim_pl.contracts import Batch, InputError, Views
from simmim_pl.data.final_views import check, is_final
from simmim_pl.data.labelled import digests, labelled_sets, require_same_sets, sets_to_read
from simmim_pl.data.local import require_views_not_enlarged
from simmim_pl.data.on_device import OnDevice, Where, settle
from simmim_pl.data.predicted import Predicted, PredictSplit
from simmim_pl.data.sampler import ResumableSampler, require_same_batches
from simmim_pl.data.source import ImageDataset, Source, Split, whole
from simmim_pl.data.split import train_val_split
from simmim_pl.data.trainable import require_trainable
from simmim_pl.data.validate import load_split
from simmim_pl.data.workers import identity_collate, ignore_signals, shut_down_at_exit
from simmim_pl.runtime.ranges import NonNegativeInt, PositiveInt, Range, Seed, ranged
from simmim_pl.runtime.seeding import make_generator


class ImageDataModule(LightningDataModule):
    """Train, validation and test batches of any source, of images or of clips.

    Validation is held out of train by ``split_seed`` alone: stratified where there are labels, the same in every run.
    Test is read by ``test`` and ``predict``, never during fit.

    Args:
        source: the data set.
        batch_size: images per batch over all devices, so that a config means the same on any number of them; each
            device gets an equal share. With accumulation a step sees batch_size × accumulate_grad_batches.
        views: makes the training views on the device. Without it training batches are all images in a fixed order.
        local_views: makes further views of smaller regions, with their own size, in addition to ``views``: see
            :class:`simmim_pl.methods.Contrastive`.
        final_views: makes the views of the last batches: larger ones ready the encoder for whole images (after Touvron
            et al. 2019, arXiv 1906.06423). Loss, speed and memory jump there; ``--data.final_share 0.99`` tries it.
        final_share: share of the batches that have ``final_views``, above 0 and below 1.
        validation: images held out of train: a whole number of images, or a share below 1 (1.0 would be all of them).
        split_seed: seed of the held-out split; leave it alone to compare runs.
        seed: seed of the order of the training images and of their views.
        workers: processes that decode images; sets that live in memory use none.
        predict_split: what ``predict`` embeds: ``all`` images, validation's and test's included; or those of one split.
        on_device: images of a set in memory lie on the device; ``auto``: on a GPU, where a quarter of it is enough.
        labelled: labelled sets beside ``source``, on which :class:`simmim_pl.callbacks.LabelledProbe` evaluates the
            encoder while it trains: one source, a list, or a mapping of names. Their test splits are not read.
        labelled_images: images of each labelled set at most, by default 3,000, a third of them held out. Each costs a
            forward pass at every validation.
    """

    @ranged
    def __init__(
        self,
        source: Source,
        batch_size: PositiveInt = 256,
        views: Views | None = None,
        local_views: Views | None = None,
        final_views: Views | None = None,
        final_share: Annotated[float, Range("(0, 1)")] = 0.15,
        validation: NonNegativeInt | Annotated[float, Range("[0, 1)")] = 0.1,
        split_seed: Seed = 0,
        seed: Seed = 0,
        workers: NonNegativeInt = 2,
        predict_split: PredictSplit = "all",
        on_device: Where = "auto",
        labelled: Source | list[Source] | dict[str, Source] | None = None,
        labelled_images: Annotated[int, Range("[2, inf)")] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.views, self.local_views = source, views, local_views
        self.final_views, self.final_share = final_views, final_share
        check(views, final_views)
        self.batch_size, self.workers = batch_size, workers
        self.validation, self.split_seed, self.seed = validation, split_seed, seed
        self.predict_split, self.on_device = predict_split, on_device
        self.labelled_sets = labelled_sets(labelled, labelled_images)
        self.splits: dict[str, Subset] = {}
        self.start = (0, 0)  # epoch and batch at which training begins

    def state_dict(self) -> dict[str, Any]:
        """Position of the run in the training images, :meth:`epochs`, and digests of the labelled sets."""
        trainer: Any = self.trainer
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        epoch = trainer.fit_loop.epoch_progress.current.ready - 1  # of these batches, also when the epoch is over
        if batches >= trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        return {"epoch": epoch, "batches": batches, "labelled": digests(self.labelled_sets)} | self.epochs()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position. Raises :class:`InputError` if batches of an epoch or a labelled set would differ."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        require_same_batches(state, self.epochs())
        require_same_sets(state.get("labelled", {}), digests(self.labelled_sets))
        self.start = (state["epoch"], state["batches"])

    def epochs(self) -> dict[str, int]:
        """Settings that determine the batches of an epoch. The number of devices is not one of them."""
        images = len(self.splits["train"])
        return {"batch_size": self.batch_size, "number_of_training_images": images, "seed": self.seed}

    @property
    def classes(self) -> list[str]:
        """Names of the source's classes, in label order."""
        return self.source.classes

    @property
    def device(self) -> torch.device:
        """Where batches are used."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def prepare_data(self) -> None:
        for source in (self.source, *(each.source for each in sets_to_read(self.labelled_sets, self.trainer))):
            source.prepare()

    def setup(self, stage: str) -> None:
        wanted = self.predict_split if stage == "predict" else "test" if stage == "test" else "train"
        if wanted != "test" and "train" not in self.splits:
            self.splits |= self.divide(self.load("train"))
        if "test" not in self.splits and (wanted == "test" or (wanted == "all" and self.source.has_test())):
            test = self.load("test")
            self.splits["test"] = Subset(test, range(len(test)))
        for each in sets_to_read(self.labelled_sets, self.trainer) if stage in ("fit", "validate") else ():
            each.setup(self)

    def load(self, split: Split) -> ImageDataset:
        """A split of the source, checked, where its batches are made."""
        return settle(load_split(self.source, split), self.on_device, self.device)

    def divide(self, images: ImageDataset) -> dict[str, Subset]:
        """Train, the held-out validation, and a part of train (twice as large) for an online kNN to search."""
        train, held_out = train_val_split(len(images), images.labels, self.validation, self.split_seed)
        labels = None if images.labels is None else images.labels[train]
        share = min(2 * len(held_out), len(train) - 1)
        _, reference = train_val_split(len(train), labels, share, self.split_seed)
        parts = {"train": train, "validation": held_out, "reference": train[reference]}
        return {name: Subset(images, indices.tolist()) for name, indices in parts.items()}

    def train_dataloader(self) -> DataLoader:
        train = self.splits["train"]
        if self.views is None:
            return self.loader(train)
        require_trainable(train, self.source, self.batch_size, (self.views, self.local_views, self.final_views))
        rank, ranks = self.rank_and_world_size()
        share, (epoch, batches) = self.share(self.batch_size), self.start
        order = ResumableSampler(train, ranks, rank, self.seed, epoch, batches * share)
        return self.loader(train, share, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.splits["validation"])

    def reference_dataloader(self) -> DataLoader:
        """Clean training images as neighbours for an online kNN; each rank gets its own share."""
        return self.own_share(self.splits["reference"])

    def own_share(self, images: Subset) -> DataLoader:
        """Batches of this rank's share of a part, in order, every image once."""
        rank, ranks = self.rank_and_world_size()
        return self.loader(Subset(images, range(rank, len(images), ranks)))

    def test_dataloader(self) -> DataLoader:
        return self.loader(self.splits["test"])

    def predict_dataloader(self) -> list[DataLoader]:
        self.predicted = Predicted(self.splits, self.predict_split, self.rank_and_world_size()[1])
        self.predicted.announce()
        return [self.loader(part) for part in self.predicted.subsets]

    def origin(self, part: Tensor, index: Tensor) -> tuple[list[str], list[str] | None]:
        """Split and file of images that were predicted, see :class:`simmim_pl.data.predicted.Predicted`."""
        return self.predicted.origin(part, index)

    def rank_and_world_size(self) -> tuple[int, int]:
        """This process's rank, and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def share(self, batch: int) -> int:
        """A device's part of a batch. Raises :class:`InputError` when it cannot be divided among the devices."""
        ranks = self.rank_and_world_size()[1]
        if batch % ranks:
            fitting = max(batch // ranks, 1) * ranks
            raise InputError(
                f"A batch of {batch} images cannot be divided among {ranks} devices: set --data.batch_size to "
                f"{fitting}, or --trainer.devices to a number that divides it."
            )
        return batch // ranks

    def loader(self, images: Subset, batch_size: int | None = None, **order: Any) -> DataLoader:
        """Batches of a split; whole batches come from ``__getitems__``, so nothing is collated.

        - ``batch_size``: of this device; by default about its share, for what need not be divided evenly.
        """
        workers = self.workers if whole(images).workers else 0
        loader = DataLoader(
            images,
            batch_size=batch_size or -(-self.batch_size // self.rank_and_world_size()[1]),
            num_workers=workers,
            collate_fn=identity_collate,
            persistent_workers=workers > 0,
            worker_init_fn=ignore_signals,
            pin_memory=torch.cuda.is_available() and not isinstance(whole(images), OnDevice),
            **order,
        )
        shut_down_at_exit(loader)
        return loader

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Add the training views, made on the device the batch is on."""
        trainer = self.trainer
        if self.views is None or trainer is None or trainer.state.stage != RunningStage.TRAINING:
            return batch
        step = trainer.fit_loop.total_batch_idx + 1  # Lightning counts the batch after it is transferred
        generator = make_generator(self.seed, step, batch["image"].device, *self.rank_and_world_size())
        last = self.final_views if self.final_views and is_final(trainer, step, self.final_share) else None
        batch["views"] = (last or self.views)(batch["image"], generator)
        if self.local_views is not None:
            batch["local"] = self.local_views(batch["image"], generator)
            require_views_not_enlarged(batch)
        return batch
