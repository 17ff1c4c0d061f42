"""Training with default callbacks and evaluation on a user's own LightningDataModule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from simmim_pl.contracts import DataModule, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.evaluation.adapted import Items, adapted
from simmim_pl.report.run import load_run
from tests.conftest import CONFIGS, QUIET


class Squares(Dataset):
    """Bright squares of two sizes on noise."""

    def __init__(self, number: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image = torch.randint(100, (number, 3, 16, 16), generator=generator).to(torch.uint8)
        self.label = torch.arange(number) % 2
        for image, label in zip(self.image, self.label, strict=True):
            image[:, 4 : 7 + 5 * label, 4 : 7 + 5 * label] = 250

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.image[index], "label": self.label[index]}


class Plain(LightningDataModule):
    """Ordinary Lightning loaders, with the attributes of simmim_pl.contracts.DataModule for evaluations."""

    classes = ("small", "large")

    def setup(self, stage: str) -> None:
        numbers = {"train": 64, "validation": 40, "test": 40}
        self.splits = {name: Squares(number, seed) for seed, (name, number) in enumerate(numbers.items())}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.splits["train"], batch_size=16, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.splits["validation"], batch_size=16)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        image = batch["image"] / 255
        return batch | ({"views": torch.stack([image, image.flip(-1)])} if self.trainer.training else {})


class Bare(Plain):
    """The same with loaders only."""

    classes = property()  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Plain, Bare])
def test_it_trains_and_evaluates_and_missing_attributes_are_reported(
    cli: Callable[[list[Any]], Path], kind: type[Plain], caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    method = ["--model=simmim_pl.methods.Contrastive", "--model.encoder=simmim_pl.encoders.FastCNN"]
    method += ["--model.encoder.width=2", "--model.head=simmim_pl.encoders.heads.ProjectionHead"]
    method += ["--model.loss=simmim_pl.losses.NTXent", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    data = f"--data={__name__}.{kind.__name__}"
    trainer = [*QUIET, "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    run = cli(["fit", *method, data, *trainer])
    history = load_run(run).history
    assert len(history["train/loss"][0]) == 8
    assert {"representation/rankme", "train/images_per_second"} <= history.keys()
    assert ("val/probe" in history) == (kind is Plain)
    assert not {"representation/std", "val/knn"} & history.keys()
    missing = [
        "the datamodule has no views",
        'no "index", which EmbeddingMap needs',
        "lacks reference_dataloader: OnlineProbe",
    ]
    if kind is Bare:
        missing[2] = "Bare lacks classes and reference_dataloader: OnlineProbe measures nothing"
    text = caplog.text.lower()
    for sentence in missing:
        assert text.count(sentence.lower()) in (1, 2), sentence
    linear = ["validate", f"--config={CONFIGS / 'evaluate/linear.yaml'}", *QUIET, data]
    linear.append(f"--model.checkpoint={run / 'checkpoints/last.ckpt'}")
    if kind is Bare:
        with pytest.raises(SystemExit):
            cli(linear)
        assert "Bare lacks classes, which evaluations read" in capsys.readouterr().err
        return
    card = json.loads((cli(linear) / "result.json").read_text())
    (described,) = card["data"]
    assert described["name"] == "Plain"
    assert described["items"] == {"train": 64, "validation": 40, "test": 40}
    assert [result["encoder"] for result in card["results"]] == ["pretrained", "untrained", "raw pixels"]
    assert all(list(result["per_class"]) == ["small", "large"] for result in card["results"])
    assert card["results"][-1]["metrics"]["accuracy"]["value"] > 0.9  # squares can be classified from pixels


def test_items_are_batched_and_have_a_digest() -> None:
    items = Items(Squares(9, 0))
    batch = items.__getitems__([4, 1])
    assert torch.equal(batch["image"], items.items.image[[4, 1]])
    assert batch["label"].tolist() == [0, 1]
    assert batch["index"].tolist() == [4, 1]
    assert torch.equal(items.labels, items.items.label)
    assert items.digest() == Items(Squares(9, 0)).digest()
    other = Squares(9, 0)
    other.image[3, 0, 0, 0] += 1
    assert Items(other).digest() != items.digest()
    other = Squares(9, 0)
    other.label[3] = 0
    assert Items(other).digest() != items.digest()


@pytest.mark.parametrize("item", [(torch.zeros(3, 4, 4), 1), {"image": torch.zeros(3, 4, 4)}, {"label": 1}])
def test_invalid_items_are_refused_with_the_required_format(item: Any) -> None:
    with pytest.raises(InputError, match=r'items {"image": uint8 \[C, H, W\], "label": int}'):
        Items([item]).__getitems__([0])


def test_image_datamodule_fulfils_the_contract_unwrapped() -> None:
    data: DataModule = ImageDataModule(Shapes(train=50, test=10, size=16))
    assert adapted(data) is data
    assert list(data.classes) == Shapes().classes
