"""Labelled sets beside the training set, to evaluate the encoder on while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Subset

from simmim_pl.contracts import InputError
from simmim_pl.data.files.digest import digest
from simmim_pl.data.on_device import settle
from simmim_pl.data.part import Part
from simmim_pl.data.source import Source
from simmim_pl.data.split import train_val_split
from simmim_pl.data.validate import load_split

IMAGES = 3000  # of a set, if the user does not say how many
HELD_OUT = 1 / 3  # of these, to evaluate probes on


class LabelledSet:
    """Images of a labelled source in two parts: ``train`` to fit probes on, ``validation`` to evaluate them on.

    Both are stratified, and of the source's training images; its test split is never read.

    Args:
        name: of the set, in the metrics.
        source: the data set.
        images: of it at most, in both parts together.
    """

    def __init__(self, name: str, source: Source, images: int) -> None:
        self.name, self.source, self.images = name, source, images
        self.parts: dict[str, Subset] = {}
        self.digest = ""  # of what decides which images of which class are in the parts

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in label order."""
        return self.source.classes

    def setup(self, data: Any) -> None:
        """Load the images, once.

        - ``data``: the :class:`simmim_pl.data.ImageDataModule` whose split seed, device and batches are used.

        Raises:
            InputError: they cannot be read, are clips, or have no labels, or only one class.
        """
        self.data = data
        if self.parts:
            return
        known = load_split(self.source, "train")
        if known.labels is None:
            raise InputError(
                f"The labelled set {self.name} has no labels: sort its images into class folders, or remove it from "
                "--data.labelled."
            )
        if known.clips:
            raise InputError(f"The labelled set {self.name} holds clips: --data.labelled takes images.")
        chosen = torch.arange(len(known))
        if len(known) > self.images:
            _, chosen = train_val_split(len(known), known.labels, self.images, data.split_seed)
        part = settle(Part(known, chosen), data.on_device and "auto", data.device)
        train, validation = train_val_split(len(part), part.labels, HELD_OUT, data.split_seed)
        if len(known.labels[chosen][train].unique()) < 2:
            raise InputError(
                f"The labelled set {self.name} has fewer than two classes among the {len(train)} training images to "
                "fit probes on: add images of other classes, or remove it from --data.labelled."
            )
        self.digest = digest(self.classes, known.labels, chosen, validation)
        self.parts = {"train": Subset(part, train.tolist()), "validation": Subset(part, validation.tolist())}
        rank_zero_info(
            f"Labelled set {self.name}, {len(self.classes)} classes: of {len(known)} training images, probes are "
            f"fitted on {len(train)} and evaluated on {len(validation)} (--data.labelled_images {self.images})."
        )

    def dataloader(self, part: Literal["train", "validation"]) -> DataLoader:
        """This rank's share of a part."""
        loader: DataLoader = self.data.own_share(self.parts[part])
        return loader


def labelled_sets(
    sources: Source | list[Source] | dict[str, Source] | None, images: int | None
) -> dict[str, LabelledSet]:
    """Labelled sets by name: that of the mapping, else the source's.

    Raises:
        InputError: two have the same name; or a number of images is given, and no set.
    """
    listed = [sources] if isinstance(sources, Source) else sources or []
    if images is not None and not listed:
        raise InputError(
            "--data.labelled_images is of labelled sets, and there are none: add one, as in --data.labelled.NAME CLASS."
        )
    found: dict[str, LabelledSet] = {}
    for name, source in listed.items() if isinstance(listed, dict) else ((each.name, each) for each in listed):
        if name in found:
            raise InputError(
                f"Two labelled sets are called {name}: name them, as in --data.labelled.NAME CLASS, or by a mapping "
                "of names to sources in YAML."
            )
        found[name] = LabelledSet(name, source, images or IMAGES)
    return found


def sets_to_read(sets: Mapping[str, LabelledSet], trainer: Any) -> list[LabelledSet]:
    """The sets that a callback of the run reads; others are neither prepared nor loaded. All without a trainer.

    Warns if a run trains with sets that nothing reads.
    """
    if trainer is None or not sets:
        return list(sets.values())
    if trainer.state.fn not in (TrainerFn.FITTING, TrainerFn.VALIDATING):
        return []
    if any(getattr(callback, "reads_labelled_sets", False) for callback in trainer.callbacks):
        return list(sets.values())
    if trainer.state.fn == TrainerFn.FITTING:
        rank_zero_warn("The sets of --data.labelled are not read, because --callbacks.labelled_probe is null.")
    return []


def digests(sets: Mapping[str, LabelledSet]) -> dict[str, str]:
    """Digest of each set that is loaded."""
    return {name: each.digest for name, each in sets.items() if each.parts}


def require_same_sets(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise :class:`InputError` if a set is not the one that had this name in the checkpoint."""
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise InputError(
                f"The labelled set {name} has other images, classes or --data.labelled_images than in the checkpoint, "
                "so the untrained network's accuracy would be of other images: set it back, or give it another name."
            )
