"""Use as a library: loading a checkpoint, exporting an encoder, training a method on plain DataLoaders."""

import inspect
import re
import subprocess
import sys
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import jaxtyping
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import simmim_pl
from simmim_pl.callbacks import Checkpoint, CollapseMonitor, OnlineProbe, Representation, TrainingMonitor
from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import NIN, FastCNN, ResNet, Swin, Timm, Torchvision, ViT
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.runtime.schedule import effective_batch

ROOT = Path(__file__).parents[1]
METHODS = (FunctionType, classmethod, staticmethod, property, cached_property)
ENCODERS: dict[str, tuple[Any, int]] = {
    "FastCNN": (lambda: FastCNN(2), 16),
    "ResNet": (lambda: ResNet(18), 32),
    "NIN": (lambda: NIN(width=4), 32),
    "ViT": (lambda: ViT(image_size=16, width=8, depth=2, num_heads=2, pool="class"), 24),
    "ViT, relative positions": (
        lambda: ViT(image_size=16, width=8, depth=2, num_heads=2, pool="class", position="relative"),
        24,
    ),
    "Swin": (lambda: Swin(2, 8, (2, 1), (2, 4)), 16),
    "a CNN of torchvision's": (lambda: Torchvision("mobilenet_v3_small"), 64),
    "a ViT of torchvision's": (lambda: Torchvision("vit_b_32"), 224),
    "a CNN of timm's": (lambda: Timm("resnet18"), 64),
}


def test_the_package_imports_quickly_and_loads_a_checkpoint(pretrained: Path) -> None:
    quick = "import sys, simmim_pl; assert 'torch' not in sys.modules; from simmim_pl import load_encoder; load_encoder"
    subprocess.run([sys.executable, "-c", quick], check=True)
    encoder = simmim_pl.load_encoder(pretrained)
    assert isinstance(encoder, FastCNN)
    assert not encoder.training
    saved = torch.load(pretrained, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[f"encoder.{name}"]) for name, tensor in encoder.state_dict().items())
    assert "load_encoder" in dir(simmim_pl)  # notebooks complete it
    with pytest.raises(AttributeError, match="no attribute 'open_encoder'"):
        simmim_pl.open_encoder  # noqa: B018


def test_help_describes_every_public_method() -> None:
    silent = []
    for path in (ROOT / "simmim_pl").rglob("*.py"):
        if "import triton" in path.read_text():
            continue  # only functions, and no GPU may be here
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        own = [each for each in vars(import_module(name)).values() if getattr(each, "__module__", "") == name]
        for each in filter(inspect.isclass, own):
            methods = [key for key, value in vars(each).items() if key[0] != "_" and isinstance(value, METHODS)]
            silent += [f"{each.__qualname__}.{key}" for key in methods if not inspect.getdoc(getattr(each, key))]
    assert silent == []


def test_the_readmes_python_runs(pretrained: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("runs/cifar10_fast/ID/checkpoints/last.ckpt", str(pretrained)), names)
    features = names["features"]
    assert features.pooled.shape == (8, names["encoder"].embed_dim)
    assert features.feature_map.ndim == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ENCODERS)
def test_exported_and_traced_encoders_give_the_same_features(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a trace's sizes are tensors
    make, size = ENCODERS[case]
    encoder: Encoder = make().eval()
    image, other = torch.rand(2, 3, size, size), torch.rand(3, 3, size, size)
    with torch.no_grad():
        exported = torch.export.export(encoder, (image,), dynamic_shapes=({0: torch.export.Dim("B")},), strict=False)
        for run in (exported.module(), torch.jit.trace(encoder, image)):
            for batch in (image, other):
                for found, expected in zip(run(batch), encoder(batch), strict=True):
                    assert torch.allclose(found, expected, atol=1e-5)
        assert exported.module()(image).pooled.shape == (2, encoder.embed_dim)
        side = size // encoder.stride
        assert encoder(image).feature_map.shape == (2, encoder.feature_map_channels, side, side)


def test_a_method_is_loaded_with_its_config_or_given_arguments(pretrained: Path, tmp_path: Path) -> None:
    saved = torch.load(pretrained, weights_only=True)
    method = Contrastive.load_from_checkpoint(pretrained)
    assert all(torch.equal(tensor, saved["state_dict"][name]) for name, tensor in method.state_dict().items())
    assert method.loss.temperature == saved["config"]["model"]["init_args"]["loss"]["init_args"]["temperature"]
    assert isinstance(method.optimizer([torch.nn.Parameter(torch.ones(1))]), torch.optim.AdamW)
    assert Contrastive.load_from_checkpoint(pretrained, loss=NTXent(temperature=0.7)).loss.temperature == 0.7
    with pytest.raises(InputError, match=r"has another architecture: at head.mlp"):
        Contrastive.load_from_checkpoint(str(pretrained), head=lambda width: ProjectionHead(width, 3, 3))
    saved["config"]["model"]["init_args"]["optimizer"]["class_path"] = "evil.Optimizer"
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"asks to import evil.Optimizer"):
        Contrastive.load_from_checkpoint(tmp_path / "x.ckpt")


def test_a_method_larger_than_the_file_is_not_built(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(pretrained, weights_only=True)
    saved["config"]["model"]["init_args"]["encoder"]["init_args"]["width"] = 64
    torch.save(saved, tmp_path / "x.ckpt")
    made: list[torch.Tensor] = []
    monkeypatch.setattr("torch.nn.init.kaiming_uniform_", lambda tensor, **more: made.append(tensor))
    with pytest.raises(InputError, match="has another architecture"):
        Contrastive.load_from_checkpoint(tmp_path / "x.ckpt")
    assert made
    assert all(tensor.is_meta for tensor in made)


def method() -> Contrastive:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01)

    return Contrastive(FastCNN(2), lambda width: ProjectionHead(width, 8, 4), NTXent(), optimizer=optimizer)


def fit(module: Contrastive, loader: Any, folder: Path, validation: Any = None, **settings: Any) -> Trainer:
    callbacks = [Checkpoint(), OnlineProbe(), Representation(), CollapseMonitor(), TrainingMonitor()]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    trainer = Trainer(max_epochs=2, logger=False, callbacks=callbacks, default_root_dir=folder, **quiet, **settings)
    trainer.fit(module, train_dataloaders=loader, val_dataloaders=validation)
    return trainer


def views(rows: list[tuple[Tensor]]) -> dict[str, Tensor]:
    """Two views of every image: the image and its mirror image."""
    image = torch.stack([row[0] for row in rows])
    return {"views": torch.stack([image, image.flip(-1)])}


@pytest.mark.filterwarnings("ignore")
def test_a_method_trains_on_a_plain_dataloader_without_a_datamodule(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    module, images = method(), TensorDataset(torch.rand(64, 3, 16, 16))
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    bare = DataLoader([{"image": torch.randint(256, (3, 16, 16)).to(torch.uint8)} for _ in range(8)], 4)
    trainer = fit(module, DataLoader(images, 16, collate_fn=views, drop_last=True), tmp_path, bare)
    assert trainer.global_step == 8
    assert effective_batch(trainer) == 16
    assert all(not torch.equal(tensor, before[name]) for name, tensor in module.named_parameters() if tensor.ndim > 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (
            DataLoader([{"image": torch.zeros(3, 16, 16, dtype=torch.uint8)}] * 8, 4),
            r"mapping with .views., float \[V, B, C, S, S\]",
        ),
        (
            DataLoader([{"views": torch.rand(2, 4, 3, 16, 16)}] * 8, batch_size=None),
            "does not say how many a batch has",
        ),
    ],
)
def test_an_unsuitable_dataloader_is_refused(tmp_path: Path, loader: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(method(), loader, tmp_path)
