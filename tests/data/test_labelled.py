"""Labelled sets: names, refusals, and two stratified parts of the training images."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule
from simmim_pl.data.labelled import digests, require_same_sets, sets_to_read
from simmim_pl.data.source import InMemory, Source, Split


class Pixels(Source):
    """Images whose first pixel is their label; there is no test split."""

    def __init__(self, labels: list[int] | None, clips: bool = False) -> None:
        self.classes = ["a", "b", "c"] if labels else []
        self.labels, self.clips = labels, clips
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def load(self, split: Split) -> InMemory:
        assert split == "train"
        labels = torch.tensor(self.labels or [0] * 12)
        images = labels.to(torch.uint8).view(-1, 1, 1, 1, 1) + torch.zeros(1, 2, 3, 2, 2, dtype=torch.uint8)
        images[:, :, 1] = 200
        return InMemory(images if self.clips else images[:, 0], labels if self.labels else None)


def made(labelled: Any, **options: Any) -> ImageDataModule:
    """Set up to pretrain on images without labels."""
    data = ImageDataModule(Pixels(None), batch_size=4, labelled=labelled, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def rows(data: ImageDataModule, part: Any) -> dict[str, Tensor]:
    batches = list(data.labelled_sets["Pixels"].dataloader(part))
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("image", "label", "index")}


def test_without_labelled_sets_there_are_none() -> None:
    assert made(None).labelled_sets == made([]).labelled_sets == {}


def test_one_set_a_list_and_a_mapping_have_names() -> None:
    source = Pixels([0, 1, 2] * 4)
    for given, name in ((source, "Pixels"), ([source], "Pixels"), ({"mine": source}, "mine")):
        (found,) = made(given).labelled_sets.items()
        assert found[0] == name
        assert found[1].classes == ["a", "b", "c"]
    assert source.prepared == 3
    assert list(made({"x": source, "y": Pixels([0, 1] * 3)}).labelled_sets) == ["x", "y"]


def test_the_parts_are_stratified_disjoint_and_capped() -> None:
    source = Pixels([0] * 24 + [1] * 12 + [2] * 12)
    data = made(source, labelled_images=36)
    train, held_out = rows(data, "train"), rows(data, "validation")
    assert train["label"].bincount().tolist() == [12, 6, 6]
    assert held_out["label"].bincount().tolist() == [6, 3, 3]
    for part in (train, held_out):
        assert torch.equal(part["image"][:, 0, 0, 0].long(), part["label"])
    index = torch.cat([train["index"], held_out["index"]])
    assert sorted(index.tolist()) == list(range(36))
    again, other = (made(source, labelled_images=36, split_seed=seed) for seed in (0, 1))
    assert torch.equal(rows(again, "train")["index"], train["index"])
    assert not torch.equal(rows(other, "train")["index"], train["index"])
    assert len(rows(made(source), "train")["label"]) == 32  # all of it


def test_the_ranks_share_every_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = made(Pixels([0, 1, 2] * 4)), []
    whole = rows(data, "train")["index"]
    for rank in range(3):
        monkeypatch.setattr(data, "rank_and_world_size", lambda rank=rank: (rank, 3))
        found.append(rows(data, "train")["index"])
    assert sorted(torch.cat(found).tolist()) == whole.tolist()


@pytest.mark.parametrize(
    ("labelled", "sentence"),
    [
        ({"x": Pixels(None)}, "The labelled set x has no labels: sort its images into class folders"),
        ({"x": Pixels([1, 1, 1])}, "The labelled set x has fewer than two classes among the 2 training images"),
        ({"x": Pixels([0, 1])}, "The labelled set x has fewer than two classes among the 1 training images"),
        ({"x": Pixels([0, 1], clips=True)}, "The labelled set x holds clips"),
        ([Pixels([0, 1])] * 2, "Two labelled sets are called Pixels: name them, as in --data.labelled.NAME CLASS"),
        ([Pixels([0, 3])], "labels from 0 to 3, and its source names 3 classes"),
    ],
)
def test_what_cannot_be_used_is_refused(labelled: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        made(labelled)


def test_another_set_of_the_same_name_is_refused_in_a_checkpoint() -> None:
    labels = [0, 1, 2] * 4
    first = made({"x": Pixels(labels)})
    before = digests(first.labelled_sets)
    moved = Pixels(labels)
    require_same_sets(before, digests(made({"x": moved, "new": Pixels(labels)}).labelled_sets))
    require_same_sets({}, before)
    renamed = Pixels(labels)
    renamed.classes = ["a", "b", "d"]
    for other in (
        made({"x": Pixels(labels[::-1])}),
        made({"x": renamed}),
        made({"x": Pixels(labels)}, labelled_images=9),
        made({"x": Pixels(labels)}, split_seed=1),
    ):
        with pytest.raises(InputError, match="The labelled set x has other images, classes or"):
            require_same_sets(before, digests(other.labelled_sets))


def test_a_number_of_images_without_a_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"--data.labelled_images is of labelled sets, and there are none: add one"):
        ImageDataModule(Pixels([0, 1]), labelled_images=9)
    assert made({"x": Pixels([0, 1, 2] * 4)}).labelled_sets["x"].images == 3000


def test_a_set_that_no_callback_reads_is_not_loaded() -> None:
    source, reader = Pixels(None), SimpleNamespace(reads_labelled_sets=True)  # which cannot be loaded
    for fn, callbacks, loads in (
        (TrainerFn.FITTING, [reader], True),
        (TrainerFn.VALIDATING, [SimpleNamespace()], False),
        (TrainerFn.PREDICTING, [reader], False),
    ):
        data = ImageDataModule(Pixels(None), labelled={"x": source})
        trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=fn), callbacks=callbacks)
        found = sets_to_read(data.labelled_sets, trainer)
        assert [each.name for each in found] == ["x"] * loads
    trainer.state.fn, trainer.callbacks = TrainerFn.FITTING, [SimpleNamespace()]
    with pytest.warns(UserWarning, match=r"--data.labelled are not read, because --callbacks.labelled_probe is null"):
        assert sets_to_read(data.labelled_sets, trainer) == []
    assert sets_to_read({}, trainer) == []  # nor is anything said
