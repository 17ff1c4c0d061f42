"""The untrained network is measured as in validation, and the run is unchanged afterwards."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from simmim_pl.callbacks.untrained import untrained
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.runtime.seeding import make_generator
from tests.callbacks.test_online_probe import Dropping, fit


class Watch(Callback):
    """Measures the untrained network, and records the run's state before, during and after."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.datamodule.validation_batches = None  # type: ignore[attr-defined]
        pl_module.encoder.net[1].eval()  # a part in eval mode, like a frozen one
        self.before = everything(pl_module)
        with untrained(trainer, pl_module) as steps:
            self.steps = [(outputs, batch["index"].clone(), number) for outputs, batch, number in steps]
            self.statistics = {name: value.clone() for name, value in pl_module.named_buffers()}
            torch.rand(3)
        self.after = everything(pl_module)
        self.stage = trainer.state.stage

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.validated = [*getattr(self, "validated", []), batch["index"].clone()]


def everything(module: nn.Module) -> dict[str, Any]:
    kept: dict[str, Any] = {name: value.clone() for name, value in module.state_dict().items()}
    norms = {name: part.momentum for name, part in module.named_modules() if hasattr(part, "momentum")}
    return kept | {"random": torch.get_rng_state()} | {"modes": [part.training for part in module.modules()]} | norms


def method(kind: type[FastCNN] = FastCNN) -> Contrastive:
    torch.manual_seed(0)
    head, optimizer = partial(ProjectionHead, hidden_dim=8, output_dim=4, norm=True), partial(torch.optim.Adam, lr=0.02)
    return Contrastive(kind(2), head, NTXent(0.3), optimizer=optimizer)


@pytest.mark.parametrize("kind", [FastCNN, Dropping])
def test_the_run_is_unchanged(tmp_path: Path, kind: type[FastCNN]) -> None:
    watch = Watch()
    fit(tmp_path, watch, module=method(kind))
    assert watch.before.keys() == watch.after.keys()
    for name, before in watch.before.items():
        same = torch.equal(before, watch.after[name]) if isinstance(before, Tensor) else before == watch.after[name]
        assert same, name
    assert watch.stage.value == "train"
    assert len(watch.steps) == 3


@pytest.mark.parametrize(
    ("options", "batches"),
    [({}, 3), ({"limit_val_batches": 2}, 2), ({"limit_val_batches": 0}, 0), ({"check_val_every_n_epoch": 2}, 3)],
)
def test_it_uses_the_validation_images(tmp_path: Path, options: dict[str, Any], batches: int) -> None:
    watch = Watch()
    fit(tmp_path, watch, module=method(), **options)
    assert [number for *_, number in watch.steps] == list(range(batches))
    seen = [index.tolist() for _, index, _ in watch.steps]
    assert seen == [index.tolist() for index in getattr(watch, "validated", [])[:batches]]
    assert all(len(outputs["features"]) == len(index) for outputs, index, _ in watch.steps)


def test_batchnorm_uses_the_statistics_of_the_first_batch(tmp_path: Path) -> None:
    watch, module, fresh = Watch(), method(), method()
    trainer = fit(tmp_path, watch, module=module)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    image = next(iter(data.val_dataloader()))["image"]
    views = data.views(image, make_generator(data.seed, -1, image.device)).flatten(0, 1)
    first = fresh.encoder.net[0]
    convolved = first[0](fresh.encoder.normalize(views)).transpose(0, 1).flatten(1)
    for name, expected in (("mean", convolved.mean(1)), ("var", convolved.var(1))):
        torch.testing.assert_close(watch.statistics[f"encoder.net.0.1.running_{name}"], expected)
    fresh.project(views.unflatten(0, (2, -1)))  # in training mode, where they do not matter
    for name in ("encoder.net.3.branch.2", "head.mlp.1"):  # in a nested layer, and in the head
        ones = torch.ones_like(watch.statistics[f"{name}.running_var"])
        assert not torch.allclose(watch.statistics[f"{name}.running_var"], ones)
