"""FLOP of a step compared with a real step and with a formula."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.callbacks.max_flop import kinds_of_batches
from simmim_pl.contracts import Encoder, Features
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN, Swin, ViT
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import BarlowTwins, NTXent, SIGReg, VICReg
from simmim_pl.methods import BYOL, Contrastive, MaskedImage, MoCoV3, Rotation
from simmim_pl.optimizers import Muon
from simmim_pl.runtime import distributed
from simmim_pl.runtime.flops import step_flop
from simmim_pl.views import ContrastiveViews, CropFlip

BATCH = 12


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-3)


def muon(groups: Any) -> torch.optim.Optimizer:
    return Muon(groups, lr=1e-3)


def head(width: int) -> ProjectionHead:
    return ProjectionHead(width, hidden_dim=8, output_dim=4, norm=True)


def vit() -> ViT:
    return ViT(16, 4, width=8, depth=2, num_heads=2)


def swin() -> Swin:
    return Swin(patch_size=2, width=8, depths=[1, 1], num_heads=[1, 2], window_size=4)


TEACHER = {"head": head, "predictor": head}
CASES: dict[str, Any] = {
    "NT-Xent": lambda: (Contrastive(FastCNN(2), head=head, loss=NTXent(), optimizer=adamw), 2),
    "in chunks": lambda: (Contrastive(FastCNN(2), head=head, loss=NTXent(), optimizer=adamw, gradient_cache=3), 2),
    "Muon": lambda: (Contrastive(FastCNN(2), head=head, loss=NTXent(), optimizer=muon), 3),
    "VICReg": lambda: (Contrastive(FastCNN(2), head=head, loss=VICReg(), optimizer=adamw), 2),
    "Barlow Twins": lambda: (Contrastive(FastCNN(2), head=head, loss=BarlowTwins(), optimizer=adamw), 2),
    "SIGReg": lambda: (Contrastive(FastCNN(2), head=head, loss=SIGReg(slices=8), optimizer=adamw), 2),
    "BYOL": lambda: (BYOL(FastCNN(2), optimizer=adamw, **TEACHER), 2),
    "MoCo v3": lambda: (MoCoV3(FastCNN(2), optimizer=muon, **TEACHER), 2),
    "rotation": lambda: (Rotation(FastCNN(2), optimizer=adamw), 1),
    "masked, convolutions": lambda: (MaskedImage(FastCNN(2), mask_unit=4, optimizer=adamw), 1),
    "masked, ViT": lambda: (MaskedImage(vit(), mask_unit=4, optimizer=muon), 1),
    "masked, Swin": lambda: (MaskedImage(swin(), mask_unit=4, optimizer=adamw), 1),
}


class Counted(Callback):
    """Counts torch's FLOP in the first batch and its optimizer step, without views."""

    def __init__(self) -> None:
        self.counter, self.math = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)

    def on_train_batch_start(self, *args: Any) -> None:
        self.math.__enter__()
        self.counter.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        self.counter.__exit__(None, None, None)
        self.math.__exit__(None, None, None)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("local", [False, True])
def test_flop_equal_those_of_a_real_step(name: str, local: bool) -> None:
    torch.manual_seed(0)
    method, views = CASES[name]()
    if local and views == 1:
        pytest.skip("this method does not use local views")
    maker = ContrastiveViews(size=16, views=views) if views > 1 else CropFlip(16)
    more = {"local_views": ContrastiveViews(size=8, views=2)} if local else {}
    data = ImageDataModule(Shapes(train=40, test=10, size=16, copies=1), BATCH, views=maker, validation=10, **more)
    counted = Counted()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer: Any = Trainer(
        **quiet, accelerator="cpu", max_steps=1, limit_val_batches=0, callbacks=[counted], log_every_n_steps=1000,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, data)
    found = counted.counter.get_total_flops()
    assert found > 0
    again, _ = CASES[name]()
    assert step_flop(again, kinds_of_batches(data, data.splits["train"].__getitems__([0])["image"])) == found


class Flat(Encoder):
    """A matrix."""

    def __init__(self) -> None:
        super().__init__(5, [0.5] * 3, [0.25] * 3, stride=4)
        self.matrix = torch.nn.Linear(48, 5, bias=False)

    def forward(self, image: torch.Tensor) -> Features:
        pooled = self.matrix(self.normalize(image).flatten(1))
        return Features(pooled, pooled[..., None, None])


def test_flop_of_two_matrices_equal_the_formula() -> None:
    method = Rotation(Flat(), optimizer=adamw)
    images = 4 * BATCH
    # Output and weight gradient of both matrices, input gradient only of the second.
    passes = 2 * images * (2 * 48 * 5 + 3 * 5 * 4)
    batch = {"views": [1, BATCH, 3, 4, 4]}
    assert step_flop(method, [(1.0, batch)]) == passes
    assert step_flop(method, [(1.0, batch)], accumulate=3) == 3 * passes
    larger = {"views": [1, 2 * BATCH, 3, 4, 4]}
    assert step_flop(method, [(0.75, batch), (0.25, larger)]) == 1.25 * passes


def test_counting_does_not_change_the_method() -> None:
    method, _ = CASES["BYOL"]()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    step_flop(method, [(1.0, {"views": [2, BATCH, 3, 16, 16]})])
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert method._trainer is None
    assert all(parameter.grad is None for parameter in method.parameters())


def test_counting_uses_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 3)
    assert distributed.world_size() == 3
    with distributed.alone():
        assert distributed.world_size() == 1
    assert distributed.world_size() == 3
