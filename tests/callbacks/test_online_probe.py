"""The online probe and kNN monitor a run without changing it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from simmim_pl.callbacks import Checkpoint, OnlineProbe
from simmim_pl.callbacks.extracted import extract
from simmim_pl.contracts import Features
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.runtime.seeding import make_generator
from simmim_pl.views import ContrastiveViews

METRICS = {"val/knn", "val/probe"}


class Dropping(FastCNN):
    """An encoder that uses global random numbers, so that other uses of them change it."""

    def forward(self, image: Tensor) -> Features:
        features = super().forward(image)
        pooled = nn.functional.dropout(features.pooled, 0.2, self.training)
        return Features(pooled=pooled, feature_map=features.feature_map)


class Unlabelled(Source):
    classes: list[str] = []  # noqa: RUF012

    def load(self, split: Split) -> InMemory:
        return InMemory(Shapes(train=120, test=10, size=16, copies=1).load(split).images, None)


class Gradients(Callback):
    """Records the encoder's gradients at every step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten().clone() for p in pl_module.encoder.parameters()]))


class AfterSanity(Callback):
    """Records what is logged after the sanity check, and its number of validation batches."""

    def __init__(self) -> None:
        self.logged: set[str] = set()
        self.batches = 0

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches += trainer.sanity_checking

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.logged = set(trainer.callback_metrics) | set(trainer.logged_metrics)


def method(kind: type[FastCNN] = FastCNN) -> Contrastive:
    torch.manual_seed(0)
    head, optimizer = partial(ProjectionHead, hidden_dim=8, output_dim=4), partial(torch.optim.Adam, lr=0.02)
    return Contrastive(kind(2), head, NTXent(0.3), optimizer=optimizer)


def fit(
    root: Path, *callbacks: Callback, module: Contrastive | None = None, source: Source | None = None, **options: Any
) -> Trainer:
    """80 images in batches of 16: five steps per epoch; 40 validation images."""
    ckpt_path, views = options.pop("ckpt_path", None), options.pop("views", ContrastiveViews(size=16))
    labelled = options.pop("labelled", None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, **quiet, **options}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=root, callbacks=list(callbacks), **options)
    source = source or Shapes(train=120, test=10, size=16, copies=1)
    images = ImageDataModule(source, 16, views, validation=40, labelled=labelled)
    torch.manual_seed(5)
    trainer.fit(module or method(), datamodule=images, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def state(online: OnlineProbe) -> dict[str, Tensor]:
    """The probe's weights, buffers and optimizer moments, by name."""
    saved = online.state_dict()
    moments = saved["optimizer"]["state"]
    named = {f"{key}.{name}": value for key, slot in moments.items() for name, value in slot.items()}
    return {name: torch.as_tensor(value).clone() for name, value in {**saved["probe"], **named}.items()}


@pytest.mark.parametrize("kind", [FastCNN, Dropping])
def test_the_run_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path, kind: type[FastCNN]) -> None:
    (bare, plain), (beside, watched) = ((Gradients(), method(kind)) for _ in range(2))
    fit(tmp_path, bare, module=plain)
    fit(tmp_path, beside, OnlineProbe(lr=10.0), module=watched)
    assert len(bare.seen) == 10
    assert all(torch.equal(*pair) for pair in zip(bare.seen, beside.seen, strict=True))
    after = watched.state_dict()  # parameters and BatchNorm's buffers, of encoder and head
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.state_dict().items())
    assert plain.state_dict().keys() == after.keys()  # the probe is not in the method's checkpoint


def test_the_random_state_of_the_run_is_unchanged(tmp_path: Path) -> None:
    drawn = []
    for callbacks in ([], [OnlineProbe()]):
        fit(tmp_path, *callbacks)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_the_probe_learns(tmp_path: Path) -> None:
    first, second = OnlineProbe(lr=1e-12), OnlineProbe(lr=0.01)
    fit(tmp_path, first)
    fit(tmp_path, second)
    assert first.probe is not None
    assert second.probe is not None
    assert not torch.allclose(first.probe.linear.weight, second.probe.linear.weight, atol=1e-3)
    assert torch.equal(first.probe.standardise.running_mean, second.probe.standardise.running_mean)


def features(module: Contrastive, images: ImageDataModule, split: str) -> tuple[np.ndarray, np.ndarray]:
    subset = images.splits[split]
    batch = subset.dataset.__getitems__(list(subset.indices))
    with torch.no_grad():
        return module(batch["image"] / 255).pooled.double().numpy(), batch["label"].numpy()


def neighbours(module: Contrastive, images: ImageDataModule, k: int, temperature: float) -> float:
    """scikit-learn's accuracy."""
    bank, queries = features(module, images, "reference"), features(module, images, "validation")
    vote = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature), algorithm="brute")
    found: float = accuracy_score(queries[1], vote.fit(*bank).predict(queries[0]))
    return found


def test_logged_metrics_equal_scikit_learn(tmp_path: Path) -> None:
    module, online = method(), OnlineProbe(lr=0.05, k=7, temperature=0.2)
    trainer = fit(tmp_path, online, module=module)
    images = trainer.datamodule
    module.eval()

    queries, expected = features(module, images, "validation"), neighbours(module, images, k=7, temperature=0.2)
    assert trainer.callback_metrics["val/knn"].item() == pytest.approx(expected, abs=1e-6)
    assert online.probe is not None
    saved = {name: tensor.double().numpy() for name, tensor in online.probe.state_dict().items()}
    mean, variance = saved["standardise.running_mean"], saved["standardise.running_var"]
    logits = (queries[0] - mean) / np.sqrt(variance + 1e-5) @ saved["linear.weight"].T + saved["linear.bias"]
    assert trainer.callback_metrics["val/probe"].item() == pytest.approx(
        accuracy_score(queries[1], logits.argmax(1)), abs=1e-6
    )


def test_the_untrained_encoder_is_evaluated_by_the_same_knn(tmp_path: Path) -> None:
    """Without training, accuracy stays the same except for changes of BatchNorm statistics."""
    found = []
    for momentum in (0.0, 0.1):
        module = method()
        module.optimizer = partial(torch.optim.SGD, lr=0.0)
        settled = method()
        for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.momentum = momentum
        trainer = fit(tmp_path, OnlineProbe(k=7), module=module)
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        assert logged["val/images"] == 40
        found.append(logged["val/knn_untrained"])
        assert logged["val/knn"] == pytest.approx(logged["val/knn_untrained"], abs=0.2)
    images = trainer.datamodule
    batch = next(iter(images.val_dataloader()))["image"]
    for norm in (part for part in settled.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 1.0
    settled.project(images.views(batch, make_generator(images.seed, -1, batch.device)))
    settled.eval()
    expected = neighbours(settled, images, k=7, temperature=0.1)
    assert found == pytest.approx([expected] * 2, abs=1e-6)


def test_the_knn_bank_has_clean_training_images_and_no_validation_images(tmp_path: Path) -> None:
    module, online = method(), OnlineProbe()
    trainer = fit(tmp_path, online, module=module)
    module.eval()
    with torch.no_grad():
        bank, label = extract(trainer, module, trainer.datamodule.reference_dataloader())
    splits = trainer.datamodule.splits
    index = torch.tensor(splits["reference"].indices)
    whole = splits["reference"].dataset
    assert torch.equal(label, whole.labels[index])
    torch.testing.assert_close(bank, module(whole.images[index] / 255).pooled.detach())
    assert not set(index.tolist()) & set(splits["validation"].indices)


def test_an_unlabelled_set_trains_and_logs_no_metrics(tmp_path: Path) -> None:
    online = OnlineProbe()
    trainer = fit(tmp_path, online, source=Unlabelled())
    assert trainer.global_step == 10
    assert "train/loss" in trainer.callback_metrics
    assert not {name for name in trainer.callback_metrics if "probe" in name or "knn" in name}
    assert online.state_dict() == {}


def test_the_sanity_check_logs_nothing(tmp_path: Path) -> None:
    sanity = AfterSanity()
    trainer = fit(tmp_path, OnlineProbe(), sanity, num_sanity_val_steps=2)
    assert sanity.batches == 2
    assert not sanity.logged & METRICS
    assert set(trainer.callback_metrics) >= METRICS


def test_a_resumed_probe_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            (online,) = (part for part in trainer.callbacks if isinstance(part, OnlineProbe))
            self.state = state(online) | {"classes": torch.tensor(online.probe.num_classes)}

    class Stop(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("stopped")

    whole, half, rest, start = OnlineProbe(lr=0.05), OnlineProbe(lr=0.05), OnlineProbe(lr=0.05), Start()
    fit(tmp_path / "whole", whole)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(tmp_path / "half", half, Checkpoint(), Stop(), enable_checkpointing=True)
    saved = state(half)
    fit(tmp_path / "rest", rest, start, ckpt_path=tmp_path / "half/checkpoints/last.ckpt")
    assert {name for name in saved if name.endswith("exp_avg")}  # the optimizer is compared too
    assert all(torch.equal(tensor, start.state[name]) for name, tensor in saved.items())
    ends, expected = state(rest), state(whole)
    assert ends.keys() == expected.keys()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in expected.items())
    assert not all(torch.equal(tensor, saved[name]) for name, tensor in expected.items())
