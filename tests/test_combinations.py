"""Any encoder trains under any method, and what it has learned is evaluated by any protocol: transformers here."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from simmim_pl import methods
from simmim_pl.contracts import Encoder
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import Swin, ViT
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.views import ContrastiveViews
from tests.conftest import CONFIGS, NO_PICTURES, QUIET, TINY
from tests.test_configs import shrunk
from tests.test_parity import MOCO_V3, SIZES, SWIN, VIT

SMALL: dict[str, Any] = {**SIZES, "patch_size": 4}
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "ViT, class token": lambda: ViT(pool="class", **SMALL),
    "ViT, relative positions": lambda: ViT(position="relative", **SMALL),
    "Swin": lambda: Swin(2, 8, (2, 1), (2, 4)),
}
HEAD = partial(ProjectionHead, hidden_dim=8, output_dim=4)
METHODS: dict[str, dict[str, Any]] = {
    "Contrastive": {"head": HEAD, "loss": NTXent()},
    "Rotation": {},
    "BYOL": {"head": HEAD, "predictor": HEAD},
    "MoCoV3": {"head": HEAD, "predictor": HEAD},
}


def made(name: str, encoder: str) -> Any:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return getattr(methods, name)(ENCODERS[encoder](), optimizer=optimizer, **METHODS.get(name, {}))


class Gradients(Callback):
    """The greatest gradient of each of the encoder's parameters, and the loss of every step."""

    def __init__(self) -> None:
        self.greatest: dict[str, float] = {}
        self.losses: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in pl_module.encoder.named_parameters():
            found = 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
            self.greatest[name] = max(found, self.greatest.get(name, 0.0))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())


def fit(method: Any, **options: Any) -> Gradients:
    """Two steps of 16 images."""
    gradients = Gradients()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    quiet |= {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False}
    data = ImageDataModule(Shapes(train=42, test=10, size=16), 16, ContrastiveViews(16), validation=10)
    Trainer(**quiet, max_steps=2, callbacks=[gradients], **options).fit(method, datamodule=data)
    return gradients


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_a_transformer_is_trained_by_every_method(name: str, encoder: str) -> None:
    method = made(name, encoder)
    found = fit(method)
    assert torch.stack(found.losses).isfinite().all()
    assert found.greatest.keys() == dict(method.encoder.named_parameters()).keys()
    assert min(found.greatest.values()) > 1e-7, found.greatest


@pytest.mark.parametrize("name", [*METHODS, "MaskedImage"])
def test_a_step_in_bfloat16_has_the_loss_of_float32(name: str) -> None:
    lower, exact = (
        fit(made(name, "ViT, class token"), precision=precision).losses[0].item()
        for precision in ("bf16-mixed", "32-true")
    )
    assert lower != exact
    assert lower == pytest.approx(exact, abs=0.05)


PRETRAINED = {
    "ViT": [*MOCO_V3, *VIT, "--model.encoder.pool=class"],
    "Swin": ["--model=simmim_pl.methods.Rotation", *SWIN, "--data.views=simmim_pl.views.CropFlip"],
}


@pytest.mark.parametrize("encoder", PRETRAINED)
def test_a_transformer_is_evaluated_by_every_protocol(
    cli: Callable[[list[Any]], Path], tmp_path: Path, encoder: str
) -> None:
    run = cli([*TINY, *PRETRAINED[encoder], *NO_PICTURES, "--trainer.max_steps=2", "--callbacks.online_probe=null"])
    story = shrunk(yaml.safe_load((CONFIGS / "evaluate/all.yaml").read_text()))
    protocols = story["model"]["init_args"]["protocols"]
    for short in protocols:
        if short["class_path"].endswith(("DenseProbe", "VideoProbe", "AugmentedProbe")):
            short.setdefault("init_args", {})["lr_search"] = {"lr": [0.1], "epochs": 1}
    protocols.append({"class_path": "simmim_pl.evaluation.Depth"})
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
    asked = [f"--model.checkpoint={run / 'checkpoints/last.ckpt'}", "--model.baselines=false"]
    card = json.loads((cli(["validate", "--config=story.yaml", *asked, *QUIET]) / "result.json").read_text())
    assert card["encoders"]["pretrained"]["class"] == encoder
    assert {each["task"] for each in card["results"]} == {
        protocol["class_path"].rpartition(".")[2] for protocol in protocols
    }
    layers = {"ViT": ["blocks.0", "blocks.1"], "Swin": ["stages.0", "stages.1"]}[encoder]
    assert [each["variant"] for each in card["results"] if each["task"] == "Depth"] == layers
