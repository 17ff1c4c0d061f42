"""The contrastive step: loss, outputs, learning, and optimisations."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent, nt_xent
from simmim_pl.losses.nt_xent import contrastive_accuracy
from simmim_pl.methods import Contrastive
from simmim_pl.views import ContrastiveViews


class Journal(Callback):
    """Records the inputs and outputs of every training step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        modules = copy.deepcopy((pl_module.encoder, pl_module.head)) if not self.steps else None
        self.steps.append({"batch": batch, "modules": modules})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps[-1] |= {"outputs": outputs, "logged": dict(trainer.callback_metrics)}

    @property
    def losses(self) -> torch.Tensor:
        return torch.stack([step["logged"]["train/loss"] for step in self.steps])


def method(width: int = 4, lr: float = 0.1, **options: Any) -> Contrastive:
    torch.manual_seed(0)
    head, optimizer = (
        partial(ProjectionHead, hidden_dim=16, output_dim=8),
        partial(torch.optim.SGD, lr=lr, momentum=0.9),
    )
    return Contrastive(FastCNN(width), head, NTXent(0.3), optimizer=optimizer, **options)


def train(root: Path, module: Contrastive, steps: int, views: int = 2, batch: int = 16) -> Journal:
    journal = Journal()
    images = ImageDataModule(
        Shapes(train=74, test=10, size=16), batch, ContrastiveViews(size=16, views=views), validation=10
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "limit_val_batches": 0, "log_every_n_steps": 1, **quiet}
    Trainer(accelerator="cpu", devices=1, max_steps=steps, callbacks=[journal], default_root_dir=root, **options).fit(
        module, datamodule=images
    )
    return journal


@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_equals_nt_xent_of_the_projections(tmp_path: Path, views: int) -> None:
    (step,) = train(tmp_path, method(), steps=1, views=views).steps
    encoder, head = (module.train() for module in step["modules"])
    rows = torch.cat([step["batch"]["views"][v] for v in range(views)])  # all views of a step share BatchNorm's
    z = torch.stack(head(encoder(rows).pooled).split(16))
    assert step["logged"]["train/loss"].item() == pytest.approx(nt_xent(z, 0.3).item(), abs=1e-5)
    assert step["outputs"]["loss"].item() == pytest.approx(nt_xent(z, 0.3).item(), abs=1e-5)
    assert step["logged"]["train/contrastive_accuracy"].item() == pytest.approx(contrastive_accuracy(z).item())


@pytest.mark.parametrize("views", [2, 3])
def test_features_are_detached_and_ordered_by_view(tmp_path: Path, views: int) -> None:
    (step,) = train(tmp_path, method(), steps=1, views=views).steps
    encoder, outputs, batch = step["modules"][0].train(), step["outputs"], step["batch"]
    assert set(outputs) == {"loss", "features", "label"}
    assert not outputs["features"].requires_grad
    assert outputs["features"].shape == (views * 16, 32)
    torch.testing.assert_close(outputs["features"], encoder(batch["views"].flatten(0, 1)).pooled)
    # Row v · B + i shows image i: its label is the i-th of the labels repeated.
    assert torch.equal(outputs["label"], batch["label"])
    expected = Shapes(train=74, test=10, size=16).load("train").labels[batch["index"]].repeat(views)
    assert torch.equal(outputs["label"].repeat(views), expected)


def test_the_step_trains_encoder_and_head(tmp_path: Path) -> None:
    module = method()
    (step,) = train(tmp_path, module, steps=1).steps
    for before, after in zip(step["modules"], (module.encoder, module.head), strict=True):
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
            assert not torch.equal(old, new), name


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses = train(tmp_path, method(width=8), steps=100, batch=32).losses
    assert losses[-6:].mean() < losses[:6].mean() - 0.25


def losses(root: Path, **options: Any) -> torch.Tensor:
    return train(root, method(**options), steps=2).losses


def test_channels_last_changes_only_the_layout(tmp_path: Path) -> None:
    weight = method(channels_last=True).encoder.net[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(losses(tmp_path, channels_last=True), losses(tmp_path), rtol=1e-4, atol=1e-4)


def fit(folder: Path, images: ImageDataModule, module: Contrastive, **options: Any) -> list[dict[str, Any]]:
    """The steps of a training."""
    journal = Journal()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[journal],
        default_root_dir=folder,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **quiet,
        **options,
    )
    trainer.fit(module, datamodule=images)
    return journal.steps


@pytest.mark.parametrize(
    ("share", "options", "sizes"),
    [
        (0.4, {"max_steps": 5}, "8 8 8 16 16"),
        (0.25, {"max_epochs": 2}, "8 8 8 8 8 8 16 16"),  # of four batches
        (0.25, {"max_epochs": 2, "accumulate_grad_batches": 2}, "8 8 8 8 8 8 16 16"),
        (0.25, {"max_epochs": 2, "accumulate_grad_batches": 3}, "8 8 8 8 8 8 16 16"),  # the second step is of one
        (0.25, {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 3}, "8 8 8 8 8 8 16 16"),
        (0.01, {"max_steps": 5}, "8 8 8 8 8"),
    ],
)
def test_the_last_batches_use_final_views(tmp_path: Path, share: float, options: dict[str, Any], sizes: str) -> None:
    views = {"views": ContrastiveViews(size=8), "final_views": ContrastiveViews(size=16), "final_share": share}
    images = ImageDataModule(Shapes(train=74, test=10, size=16), 16, validation=10, **views)
    module = method()
    module.compares_images = False  # else accumulation is refused
    steps = fit(tmp_path, images, module, **options)
    assert [step["batch"]["views"].shape[-1] for step in steps] == [int(size) for size in sizes.split()]


def test_local_views_are_positives_of_their_image(tmp_path: Path) -> None:
    source, local = Shapes(train=74, test=10, size=16), ContrastiveViews(size=8, views=3, scale=(0.1, 0.3))
    images = ImageDataModule(source, 16, ContrastiveViews(size=16), local, validation=10)
    (step,) = fit(tmp_path, images, method(), max_steps=1)
    batch, (encoder, head) = step["batch"], (part.train() for part in step["modules"])
    assert batch["local"].shape == (3, 16, 3, 8, 8)
    z = [
        head(encoder(views.flatten(0, 1)).pooled).unflatten(0, views.shape[:2])
        for views in (batch["views"], batch["local"])
    ]
    torch.testing.assert_close(step["logged"]["train/loss"], nt_xent(torch.cat(z), 0.3).detach())
    assert step["outputs"]["features"].shape[0] == 2 * 16  # the views, as large as evaluated images
    small = torch.stack([view.flatten(1).std(1) for view in batch["local"].flatten(0, 1)])
    assert (small[:16] - small[16:32]).abs().max() > 1e-3  # each local view is a different region
