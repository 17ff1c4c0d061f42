"""The datamodule in a real Trainer: batches of each stage are functions of (seed, step, rank)."""

import functools
import hashlib
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn
from torch.utils.data import Subset

from simmim_pl.contracts import Batch, InputError, Views
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.views import ContrastiveViews

CPU = torch.device("cpu")


class Tiny(Source):
    """Images whose pixels equal their position in the split, and that count their reads."""

    def __init__(self, train: int = 26, labelled: bool = True, test: int = 10) -> None:
        self.sizes: dict[Split, int] = {"train": train, "test": test}
        self.labelled = labelled
        self.classes = ["even", "odd"] if labelled else []
        self.loaded: list[str] = []
        self.reads: list[list[int]] = []

    def load(self, split: Split) -> ImageDataset:
        self.loaded.append(split)
        position = torch.arange(self.sizes[split])
        images = position.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        return Counting(self.reads, images, position % 2 if self.labelled else None)


class Counting(InMemory):
    def __init__(self, reads: list[list[int]], images: Tensor, labels: Tensor | None) -> None:
        super().__init__(images, labels)
        self.reads = reads

    def read(self, index: Tensor) -> Tensor:
        self.reads.append(index.tolist())
        return super().read(index)


class Untestable(Tiny):
    def load(self, split: Split) -> ImageDataset:
        if split == "test":
            raise AssertionError("fit has loaded test")
        return super().load(split)


class Noisy(Views):
    """Two views: the image with uniform noise from the generator."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(2, *image.shape, generator=generator)
        return (image / 255 + noise).clamp(0, 1)


class Recorder(LightningModule):
    """Records every batch; has one parameter for the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: dict[str, list[Batch]] = {"train": [], "validation": [], "test": [], "predict": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.batches["train"].append(batch)
        return self.weight.square()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.batches["validation"].append(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.batches["test"].append(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.batches["predict"].append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def hashes(self) -> list[str]:
        """Hashes of each training step's images and views."""
        return [
            hashlib.md5(b["index"].numpy().tobytes() + b["views"].numpy().tobytes()).hexdigest()
            for b in self.batches["train"]
        ]

    def order(self, stage: str) -> list[list[int]]:
        return [batch["index"].tolist() for batch in self.batches[stage]]


def trainer(root: Path, epochs: int = 1, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, **quiet, **options}
    return Trainer(accelerator="cpu", devices=1, max_epochs=epochs, default_root_dir=root, **options)


def fit(root: Path, images: ImageDataModule, epochs: int = 1, ckpt_path: str | None = None, **options: Any) -> Recorder:
    recorder = Recorder()
    trainer(root, epochs, **options).fit(recorder, datamodule=images, ckpt_path=ckpt_path)
    return recorder


def noisy(seed: int = 0, batch_size: int = 4, **options: Any) -> ImageDataModule:
    return ImageDataModule(Tiny(), batch_size, views=Noisy(), validation=4, seed=seed, **options)


def on_rank(images: ImageDataModule, rank: int, ranks: int, step: int = 0) -> ImageDataModule:
    """Mock a trainer on this rank at this training step."""
    state = SimpleNamespace(stage=RunningStage.TRAINING)
    loop = SimpleNamespace(total_batch_idx=step)
    images.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, state=state, fit_loop=loop)
    return images


def test_fit_never_loads_test(tmp_path: Path) -> None:
    source = Untestable()
    fit(tmp_path, ImageDataModule(source, 4, views=Noisy(), validation=4))
    assert source.loaded == ["train"]


def test_views_are_added_in_training_only(tmp_path: Path) -> None:
    images, recorder = noisy(), Recorder()
    runner = trainer(tmp_path)
    runner.fit(recorder, datamodule=images)
    runner.test(recorder, datamodule=images, verbose=False)
    runner.predict(recorder, datamodule=images)
    for stage, batches in recorder.batches.items():
        assert batches
        for batch in batches:
            assert set(batch) == {"image", "index", "label"} | ({"views"} if stage == "train" else set())
            assert batch["image"].dtype == torch.uint8
            assert batch["image"][:, 0, 0, 0].tolist() == batch["index"].tolist()
            assert batch["label"].tolist() == [i % 2 for i in batch["index"].tolist()]
    assert recorder.batches["train"][0]["views"].shape == (2, 4, 3, 2, 2)


def test_the_seed_decides_batches_and_views(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = fit(tmp_path, noisy(seed=7), epochs=2)
    torch.manual_seed(2)
    again, other = fit(tmp_path, noisy(seed=7), epochs=2), fit(tmp_path, noisy(seed=8), epochs=2)
    assert len(set(first.hashes)) == len(first.hashes) == 10
    assert again.hashes == first.hashes
    assert not set(other.hashes) & set(first.hashes)
    assert other.order("train") != first.order("train")
    assert other.order("validation") == first.order("validation")  # split_seed alone decides the split


def test_a_run_resumed_at_the_end_of_an_epoch_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = fit(tmp_path, noisy(), epochs=4, enable_checkpointing=True, callbacks=[keep])
    torch.manual_seed(99)
    resumed = fit(tmp_path, noisy(), epochs=4, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    assert len(resumed.hashes) == 10
    assert resumed.hashes == whole.hashes[10:]


def test_every_epoch_has_its_own_order(tmp_path: Path) -> None:
    recorder = fit(tmp_path, noisy(batch_size=22), epochs=4)
    orders = {tuple(batch) for batch in recorder.order("train")}
    assert len(orders) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(next(iter(orders))))}


def test_ranks_divide_all_images() -> None:
    images = noisy(batch_size=8)
    images.setup("fit")
    shares = []
    for rank in range(2):
        loader = on_rank(images, rank, ranks=2).train_dataloader()
        shares.append(torch.cat([batch["index"] for batch in loader]).tolist())
    assert len(shares[0]) == len(shares[1]) == 8  # 22 images are 11 per rank, two full batches of 4
    assert not set(shares[0]) & set(shares[1])
    assert set(shares[0] + shares[1]) <= set(images.splits["train"].indices)


@pytest.mark.parametrize("ranks", [2, 4])
def test_views_are_the_same_for_any_number_of_ranks(ranks: int) -> None:
    images = ImageDataModule(Tiny(), 8, views=ContrastiveViews(size=20, views=3, blur=0.5, solarize=0.5), validation=4)
    whole = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def views(rank: int, ranks: int, step: int = 3) -> Tensor:
        batch = {"image": whole[rank::ranks]}
        return on_rank(images, rank, ranks, step).on_after_batch_transfer(batch, 0)["views"]

    one = views(0, 1)
    for rank in range(ranks):
        torch.testing.assert_close(views(rank, ranks), one[:, rank::ranks])
    assert not torch.allclose(views(0, 1, step=4), one)


def test_without_views_training_batches_are_all_images_in_order(tmp_path: Path) -> None:
    images = ImageDataModule(Tiny(), batch_size=4, validation=4)
    recorder = fit(tmp_path, images, epochs=2)
    positions = images.splits["train"].indices
    assert positions == sorted(positions)
    assert [len(batch) for batch in recorder.order("train")] == [4, 4, 4, 4, 4, 2] * 2
    assert functools.reduce(operator.iadd, recorder.order("train"), []) == positions * 2
    assert all("views" not in batch for batch in recorder.batches["train"])


def test_each_batch_is_read_in_one_call(tmp_path: Path) -> None:
    source = Tiny()
    recorder = fit(tmp_path, ImageDataModule(source, 4, views=Noisy(), validation=4), num_sanity_val_steps=0)
    first, one, *reads = source.reads  # some images are read before, to validate them, and one for its channels
    assert (first, one) == ([0, 8, 16, 25], [0])
    assert reads == recorder.order("train") + recorder.order("validation")
    assert [len(read) for read in reads] == [4] * 5 + [4]


def test_only_sources_that_are_not_in_memory_use_workers() -> None:
    images = ImageDataModule(Tiny(), 4, validation=4, workers=2)
    images.setup("fit")
    assert images.val_dataloader().num_workers == 0
    images.splits["validation"].dataset.workers = True
    assert (
        images.val_dataloader().num_workers == images.loader(Subset(images.splits["validation"], [0])).num_workers == 2
    )


def test_the_reference_is_a_part_of_train_disjoint_from_validation() -> None:
    images = ImageDataModule(Tiny(train=60), batch_size=4, validation=10)
    images.setup("fit")
    train, held_out, reference = (set(images.splits[name].indices) for name in ("train", "validation", "reference"))
    assert len(held_out) == 10
    assert reference
    assert reference < train
    assert not train & held_out
    assert train | held_out == set(range(60))
    seen = [on_rank(images, rank, ranks=2).reference_dataloader() for rank in range(2)]
    shares = [torch.cat([batch["index"] for batch in loader]).tolist() for loader in seen]
    assert sorted(shares[0] + shares[1]) == sorted(reference)


def test_the_reference_is_smaller_than_train() -> None:
    images = ImageDataModule(Tiny(train=10), validation=8)
    images.setup("fit")
    assert len(images.splits["reference"]) == 1


def test_validation_is_stratified() -> None:
    images = ImageDataModule(Tiny(train=100), validation=0.3)
    images.setup("fit")
    parity = np.array(images.splits["validation"].indices) % 2
    assert np.bincount(parity).tolist() == [15, 15]


@pytest.mark.parametrize(("split", "size"), [("train", 22), ("validation", 4), ("test", 10)])
def test_predict_reads_only_the_requested_split(tmp_path: Path, split: str, size: int) -> None:
    source, recorder = Tiny(), Recorder()
    images = ImageDataModule(source, 4, views=Noisy(), validation=4, predict_split=split)
    trainer(tmp_path).predict(recorder, datamodule=images)
    assert functools.reduce(operator.iadd, recorder.order("predict"), []) == (
        list(range(10)) if split == "test" else images.splits[split].indices
    )
    assert sum(map(len, recorder.order("predict"))) == size
    assert source.loaded == ["test" if split == "test" else "train"]


@pytest.mark.parametrize("labelled", [True, False])
def test_predict_reads_all_images_once_in_order_by_default(tmp_path: Path, labelled: bool) -> None:
    class Flat(Tiny):
        def has_test(self) -> bool:
            return labelled

    recorder, images = Recorder(), ImageDataModule(Flat(labelled=labelled), 4, views=Noisy(), validation=4)
    trainer(tmp_path).predict(recorder, datamodule=images)
    order = functools.reduce(operator.iadd, recorder.order("predict"), [])
    assert order == [*range(26), *(range(10) if labelled else [])]
    part = torch.tensor([0] * 26 + [1] * (len(order) - 26))
    splits, files = images.origin(part, torch.tensor(order))
    assert [i for i, split in enumerate(splits) if split == "validation"] == images.splits["validation"].indices
    assert splits.count("train") == 22
    assert splits[26:] == ["test"] * 10 * labelled
    assert files is None


def test_an_unlabelled_source_gives_batches_without_labels(tmp_path: Path) -> None:
    recorder = fit(tmp_path, ImageDataModule(Tiny(labelled=False), 4, views=Noisy(), validation=4))
    assert set(recorder.batches["train"][0]) == {"image", "index", "views"}
    assert set(recorder.batches["validation"][0]) == {"image", "index"}


@pytest.mark.parametrize(
    ("batch_size", "says"), [(1, "no negatives"), (23, "22 training images do not fill one batch of 23")]
)
def test_batches_unsuitable_for_training_are_refused(tmp_path: Path, batch_size: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(tmp_path, noisy(batch_size=batch_size))


def test_a_batch_not_divisible_by_ranks_is_refused() -> None:
    images = noisy(batch_size=10)
    images.setup("fit")
    on_rank(images, 0, ranks=2).train_dataloader()
    with pytest.raises(InputError, match=r"batch of 10 images cannot be divided among 4 devices: .* to 8, or"):
        on_rank(images, 0, ranks=4).train_dataloader()


def test_shapes_can_be_used_in_fit(tmp_path: Path) -> None:
    images = ImageDataModule(Shapes(train=30, test=10, size=16), 10, views=Noisy(), validation=10)
    recorder = fit(tmp_path, images)
    assert [batch["views"].shape for batch in recorder.batches["train"]] == [(2, 10, 3, 16, 16)] * 2
    assert recorder.batches["validation"][0]["label"].bincount().tolist() == [1] * 10


class Clips(Tiny):
    """The images of Tiny as clips of two frames."""

    def load(self, split: Split) -> ImageDataset:
        images = super().load(split)
        return InMemory(images.images[:, None].repeat(1, 2, 1, 1, 1), images.labels)


def test_every_stage_gives_clips_without_views(tmp_path: Path) -> None:
    images, recorder = ImageDataModule(Clips(), 4, validation=4), Recorder()
    runner = trainer(tmp_path)
    runner.fit(recorder, datamodule=images)
    runner.test(recorder, datamodule=images, verbose=False)
    runner.predict(recorder, datamodule=images)
    for batches in recorder.batches.values():
        assert batches
        for batch in batches:
            assert set(batch) == {"clip", "index", "label"}
            assert batch["clip"].shape[1:] == (2, 3, 2, 2)
            assert batch["clip"][:, 1, 0, 0, 0].tolist() == batch["index"].tolist()


def test_views_of_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Clips holds clips, and training views are made of images"):
        fit(tmp_path, ImageDataModule(Clips(), 4, views=Noisy(), validation=4))


def test_masks_stay_with_their_images_when_views_are_added(tmp_path: Path) -> None:
    images = ImageDataModule(Shapes(train=30, test=10, size=16), 10, views=Noisy(), validation=10)
    recorder = fit(tmp_path, images)
    masks = Shapes(train=30, test=10, size=16).load("train").masks
    for stage in ("train", "validation"):
        for batch in recorder.batches[stage]:
            assert torch.equal(batch["mask"], masks[batch["index"]])


def test_predict_needs_an_image_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for split, test, ranks, says in (
        ("validation", 10, 1, "validation has 0 for 1"),
        ("test", 1, 2, "test has 1 for 2"),
        ("all", 1, 2, "test has 1 for 2"),
    ):
        images = ImageDataModule(Tiny(test=test), 4, validation=0, predict_split=split)  # type: ignore[arg-type]
        images.setup("predict")
        monkeypatch.setattr(images, "rank_and_world_size", lambda ranks=ranks: (0, ranks))
        with pytest.raises(InputError, match=f"predict needs an image for each device, and {says}: set"):
            images.predict_dataloader()
