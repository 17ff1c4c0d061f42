"""Between two log steps a training step does not synchronise with its device: tested on fake tensors.

PyTorch's fake tensors have device, type and shape, and raise when a value, or a shape that depends on values, is
read, which would wait for a GPU. Blocking copies between devices wait too. Views are given, because
on a GPU they are made by kernels, which fake tensors cannot run.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simmim_pl.callbacks import Checkpoint, Dashboard
from simmim_pl.command.default_callbacks import CALLBACKS
from simmim_pl.contracts import Batch
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN, Swin, ViT
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.losses import NTXent
from simmim_pl.methods import BYOL, Contrastive, MaskedImage, MoCoV3, Rotation
from simmim_pl.optimizers import Muon
from simmim_pl.views import ContrastiveViews
from tests.conftest import CONFIGS

GPU = torch.device("lazy")  # a device that is only a name, with gradients computed in this thread


class CopyError(AssertionError):
    """A blocking copy."""


class Copies(TorchDispatchMode):
    """Refuses blocking copies between devices after the start of training."""

    begun = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            devices = {part.device.type for part in (*args, result) if isinstance(part, torch.Tensor)}
            asynchronous = (kwargs or {}).get("non_blocking") or any(part is True for part in args)
            if self.begun and len(devices) > 1 and not asynchronous:
                raise CopyError(f"{function} from one of {devices} to another")
        return result


class EnoughError(Exception):
    """Raised after enough batches."""


class Two(Callback):
    """Ends the run after two batches, so that the second has the state of the first."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies

    def on_train_batch_start(self, *_: Any) -> None:
        self.copies.begun = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs["loss"].device.type == GPU.type
        if batch_idx == 1:
            raise EnoughError

    def on_exception(self, *_: Any) -> None:
        self.copies.begun = False


class Named(CPUAccelerator):
    """An accelerator that exists only by name."""

    def setup_device(self, device: torch.device) -> None: ...


class Given(ImageDataModule):
    """Batches with their views."""

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...

    def train_dataloader(self) -> "Given":
        return self

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[Batch]:
        label, index = torch.arange(8) % 3, torch.arange(8)
        image, views = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.rand(2, 8, 3, 16, 16)
        for _ in range(len(self)):
            yield {"image": image, "label": label, "index": index, "views": views}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch


def moved(module: nn.Module, to: Any, recurse: bool = True) -> nn.Module:
    """Replaces ``Module._apply``, which cannot replace fake parameters."""
    for child in module.children():
        moved(child, to)
    for name, part in module._parameters.items():
        module._parameters[name] = None if part is None else nn.Parameter(to(part.detach()), part.requires_grad)
    for name, part in module._buffers.items():
        module._buffers[name] = None if part is None else to(part)
    return module


def fit(root: Path, module: LightningModule, *callbacks: Callback, **options: Any) -> None:
    """Two batches on the device, between two log steps."""
    data = Given(Shapes(train=40, test=10, size=16), batch_size=8, views=ContrastiveViews(size=16))
    copies = Copies()
    strategy = SingleDeviceStrategy(GPU, accelerator=Named())
    trainer = Trainer(
        strategy=strategy,
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1000,
        enable_model_summary=False,
        logger=CSVLogger(root),
        callbacks=[*callbacks, Two(copies)],
        **options,
    )
    with FakeTensorMode(allow_non_fake_inputs=True), copies, pytest.raises(EnoughError):
        trainer.fit(module, datamodule=data)


@pytest.fixture(autouse=True)
def fake_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "_apply", moved)
    monkeypatch.setattr("lightning.pytorch.loops.fit_loop.has_len_all_ranks", lambda *_: True)  # before any step
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda device, **how: autocast("cpu", **how)
    )  # which the fake device does not have
    monkeypatch.setattr(Dashboard, "show", lambda *_: None)  # before the first


def method(optimizer: Any = torch.optim.AdamW) -> Contrastive:
    head, optimizer = partial(ProjectionHead, hidden_dim=8, output_dim=4), partial(optimizer, lr=0.1)
    return Contrastive(FastCNN(2), head, NTXent(), optimizer=optimizer)


def of(config: str) -> list[Callback]:
    """The callbacks of a config."""
    asked = yaml.safe_load((CONFIGS / config).read_text()).get("callbacks", {})
    return [kind(**(asked.get(name) or {})) for name, kind in CALLBACKS.items() if asked.get(name, {}) is not None]


def test_a_step_of_the_quickstart(tmp_path: Path) -> None:
    fit(tmp_path, method(), *of("quickstart.yaml"))


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(torch.optim.SGD, {}), (Muon, {"gradient_clip_val": 1.0})],
)
def test_a_step_of_another_optimizer(tmp_path: Path, optimizer: Any, options: dict[str, Any]) -> None:
    fit(tmp_path, method(optimizer), Checkpoint(), **options)


@pytest.mark.parametrize("kind", [BYOL, MoCoV3])
def test_a_step_with_a_teacher(tmp_path: Path, kind: Any) -> None:
    head = partial(ProjectionHead, hidden_dim=8, output_dim=4, norm=True)
    fit(tmp_path, kind(FastCNN(2), head, head, optimizer=partial(torch.optim.SGD, lr=0.1)))


def test_a_step_of_rotation_with_accumulation(tmp_path: Path) -> None:
    module = Rotation(FastCNN(2), optimizer=partial(torch.optim.SGD, lr=0.1))
    fit(tmp_path, module, Checkpoint(), accumulate_grad_batches=2)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ViT(32, width=8, depth=1, num_heads=1, pool="class"),
        lambda: ViT(32, width=8, depth=1, num_heads=1, pool="class", position="relative"),
        lambda: Swin(2, 8, (2,), (1,)),
        lambda: FastCNN(2),
    ],
)
def test_a_step_of_masked_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Callable[[], Any]) -> None:
    monkeypatch.setattr(MaskedImage, "generator", lambda *_: None)  # which fake tensors do not have
    drawn = "simmim_pl.methods.masked_image.uniform"
    monkeypatch.setattr(drawn, lambda generator, *shape, along: torch.rand(shape, device=GPU))
    fit(tmp_path, MaskedImage(encoder(), optimizer=partial(torch.optim.AdamW, lr=0.1)), *of("quickstart_simmim.yaml"))


ASK: list[Callable[[Tensor], Any]] = [
    lambda loss: loss.item(),
    lambda loss: bool(loss > 0),
    lambda loss: loss.cpu(),
    lambda loss: loss.to("cpu"),
    lambda loss: torch.tensor(0.5, device=loss.device),
    lambda loss: loss.new_tensor([0.5, 1.0]),
    lambda loss: loss[None].nonzero(),
    lambda loss: loss[None][loss[None] > 0],
    lambda loss: loss.long()[None].bincount(),
    lambda loss: loss[None].unique(),
]


def test_a_step_that_synchronises_is_detected(tmp_path: Path) -> None:
    class Asks(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
            for ask in ASK:
                with pytest.raises((CopyError, DataDependentOutputException, DynamicOutputShapeException)):
                    ask(outputs["loss"])
            raise EnoughError

    fit(tmp_path, method(), Asks())


def test_feature_extraction_does_not_synchronise_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until features are compared, when all have been computed."""

    def compare(*_: Any, **__: Any) -> None:
        raise EnoughError

    def batches(split: str) -> Iterator[Any]:
        for batch in Given(Shapes(), batch_size=8):
            yield {name: part.to(GPU, non_blocking=True) for name, part in batch.items()}

    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        encoder = FastCNN(2).to(GPU).requires_grad_(False).eval()
        context = EvaluationContext(encoder, Given(Shapes(), batch_size=8), "given", GPU, nullcontext)
        monkeypatch.setattr(context, "batches", batches)
        monkeypatch.setattr(context, "passes", lambda split: 5)
        monkeypatch.setattr(torch, "allclose", compare)
        copies.begun = True
        with pytest.raises(EnoughError):
            context.extract("test")
