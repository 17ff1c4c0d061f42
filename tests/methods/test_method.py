"""Features of every method: schedule, parameter groups, the scaled learning rate, and NaN losses."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader

from simmim_pl.callbacks import Checkpoint
from simmim_pl.contracts import Batch, Encoder, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN, Swin, Torchvision, ViT
from simmim_pl.methods.method import Method, Output
from simmim_pl.report.run import load_run
from simmim_pl.runtime.schedule import effective_batch, parameter_groups, warmup_cosine
from simmim_pl.runtime.seeding import make_generator, uniform
from tests.conftest import CONFIGS, EVALUATION, TINY


class Smallest(Method):
    """The mean feature as the loss, which is NaN at step ``breaks``."""

    breaks = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        features = self(batch["image"].float() / 255)
        loss = features.pooled.mean()
        return self.finish(loss * (torch.nan if self.global_step == self.breaks else 1), features.pooled, batch)


class Rates(Callback):
    """Records the learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.5)


def method(**options: Any) -> Smallest:
    torch.manual_seed(0)
    return Smallest(FastCNN(2), optimizer=sgd, **options)


def fit(root: Path, module: Method, **options: Any) -> Trainer:
    """40 images in batches of 8: five batches per epoch."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": 2, **quiet, **options}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=root, **options)
    trainer.fit(module, datamodule=ImageDataModule(Shapes(train=50, test=10, size=16), batch_size=8, validation=10))
    return trainer


@settings(deadline=None, max_examples=30)
@given(steps=st.integers(2, 60), warmup=st.integers(1, 59))
def test_the_schedule_equals_torchs_linear_then_cosine(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    # Ours is 1 at step warmup - 1, torch's linear part at step warmup, so torch's part is one step shorter.
    parts = [CosineAnnealingLR(optimizer, T_max=steps - warmup)]
    if warmup > 1:
        parts.insert(0, LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1))
    reference = SequentialLR(optimizer, parts, milestones=[warmup] if warmup > 1 else [])
    lead = 0 if warmup > 1 else 1
    for step in range(lead, steps + 1):
        assert warmup_cosine(step, warmup, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()


@settings(deadline=None)
@given(steps=st.integers(1, 1000), warmup=st.integers(0, 1000), step=st.integers(0, 2000))
def test_the_schedule_starts_above_zero_peaks_after_the_warmup_and_ends_at_zero(
    steps: int, warmup: int, step: int
) -> None:
    warmup = min(warmup, steps - 1)
    assert 0 <= warmup_cosine(step, warmup, steps) <= 1
    assert warmup_cosine(0, warmup, steps) > 0
    assert warmup_cosine(warmup, warmup, steps) == 1
    assert warmup_cosine(max(steps, step), warmup, steps) == pytest.approx(0, abs=1e-12)
    if step < warmup:
        assert warmup_cosine(step, warmup, steps) == pytest.approx((step + 1) / warmup)


def test_a_run_of_only_warmup_does_not_divide_by_zero() -> None:
    assert [warmup_cosine(step, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(0, 0, 0) == 1


def names(module: nn.Module, group: dict[str, Any]) -> set[str]:
    of = {id(parameter): name for name, parameter in module.named_parameters()}
    return {of[id(parameter)] for parameter in group["params"]}


class Wrapped(nn.Module):
    """A network within another, like an encoder's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def mixed() -> nn.Module:
    layers = {
        "conv": nn.Conv2d(3, 4, 3),
        "batch": nn.BatchNorm2d(4),
        "layer": nn.LayerNorm(4),
        "group": nn.GroupNorm(2, 4),
        "linear": nn.Linear(4, 2),
    }
    return nn.ModuleDict(layers)


def test_only_biases_and_norms_have_no_weight_decay() -> None:
    module = mixed()
    decayed, spared = parameter_groups(module, decay_norm_and_bias=False)
    assert names(module, decayed) == {"conv.weight", "linear.weight"}
    assert names(module, spared) == {
        *("conv.bias", "linear.bias", "batch.weight", "batch.bias"),
        *("layer.weight", "layer.bias", "group.weight", "group.bias"),
    }
    assert "weight_decay" not in decayed  # the optimizer's own
    assert spared["weight_decay"] == 0


@pytest.mark.parametrize("decay", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(decay: bool) -> None:
    module = mixed()
    module["linear"].requires_grad_(False)
    listed = [id(p) for group in parameter_groups(module, decay) for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in module.parameters() if p.requires_grad)


def test_decay_norm_and_bias_decays_everything() -> None:
    module = mixed()
    (only,) = parameter_groups(module, decay_norm_and_bias=True)
    assert names(module, only) == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_parameters_in_timms_no_weight_decay_are_not_decayed(name: str) -> None:
    with torch.device("meta"):
        encoder = Wrapped(timm.create_model(name))
    theirs = param_groups_weight_decay(encoder.net, 0.05, no_weight_decay_list=encoder.net.no_weight_decay())
    expected = {group["weight_decay"]: {f"net.{each}" for each in names(encoder.net, group)} for group in theirs}
    decayed, spared = parameter_groups(encoder, decay_norm_and_bias=False)
    assert names(encoder, spared) == expected[0.0]
    assert names(encoder, decayed) == expected[0.05]


def test_tokens_and_positions_are_not_decayed() -> None:
    named = {"ViT": ViT(pool="class", width=8, depth=1, num_heads=1), "Swin": Swin(2, 8, (1,), (1,))}
    with torch.device("meta"):
        named |= {name: Torchvision(name) for name in ("vit_b_16", "swin_t")}
    found = {kind: names(encoder, parameter_groups(encoder, False)[1]) for kind, encoder in named.items()}
    assert {"position", "class_token"} <= found["ViT"]
    assert "stages.0.0.attn.relative_position_bias_table" in found["Swin"]
    assert {"net.encoder.pos_embedding", "net.class_token"} <= found["vit_b_16"]
    assert "net.features.1.0.attn.relative_position_bias_table" in found["swin_t"]
    for kind, encoder in named.items():
        rest = {name for name, each in encoder.named_parameters() if name not in found[kind]}
        assert rest
        assert all(name.endswith("weight") for name in rest)


def test_the_optimizer_of_a_run_has_the_right_weight_decay(tmp_path: Path) -> None:
    module = method()
    (optimizer,) = fit(tmp_path, module, max_epochs=1).optimizers
    for group in optimizer.param_groups:
        wanted = {p.ndim > 1 for p in group["params"]}
        assert wanted == {group["weight_decay"] == 0.5}


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_the_rate_is_scaled_to_the_effective_batch_and_decays_to_zero(tmp_path: Path, accumulation: int) -> None:
    rates, module = Rates(), method()
    trainer = fit(tmp_path, module, accumulate_grad_batches=accumulation, callbacks=[rates])
    steps = 2 * math.ceil(5 / accumulation)
    peak = 0.1 * 8 * accumulation / 256
    assert trainer.global_step == len(rates.used) == steps
    assert rates.used == pytest.approx([peak * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(0.4, 2), (1.0, 5)])
def test_warmup_may_be_a_fraction_of_epochs(tmp_path: Path, epochs: float, warmup_steps: int) -> None:
    rates = Rates()
    fit(tmp_path, method(warmup_epochs=epochs), callbacks=[rates])
    peak = 0.1 * 8 / 256
    assert rates.used[:warmup_steps] == pytest.approx([peak * (t + 1) / warmup_steps for t in range(warmup_steps)])
    assert max(rates.used) == pytest.approx(peak)
    assert rates.used[warmup_steps + 1 :] == sorted(rates.used[warmup_steps + 1 :], reverse=True)
    assert rates.used[-1] < peak / 5


@pytest.mark.parametrize(("batch", "devices", "accumulation"), [(256, 1, 1), (64, 8, 1), (32, 2, 4)])
def test_the_effective_batch_includes_accumulation_but_not_devices(batch: int, devices: int, accumulation: int) -> None:
    module = method()
    module.trainer = trainer = SimpleNamespace(
        world_size=devices,
        accumulate_grad_batches=accumulation,
        datamodule=SimpleNamespace(batch_size=batch),
        estimated_stepping_batches=10,
        max_epochs=1,
    )
    optimizer = module.configure_optimizers()["optimizer"]
    assert effective_batch(trainer) == batch * accumulation
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.1 * batch * accumulation / 256] * 2)
    assert trainer.world_size == devices


class Fingerprint(Callback):
    """Records the existing checkpoint at the start of each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[str] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.path.exists():
            self.seen.append(hashlib.md5(self.path.read_bytes()).hexdigest())


def test_a_nan_loss_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    before, module = Fingerprint(path), method()
    module.breaks = 7  # the third step of the second epoch, which is not logged
    with pytest.raises(InputError, match=r"became nan at step 7\b.*--ckpt_path"):
        fit(tmp_path, module, enable_checkpointing=True, callbacks=[before, Checkpoint()])
    assert [hashlib.md5(path.read_bytes()).hexdigest()] == before.seen
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 5
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_validation_and_prediction_give_features_of_clean_images_in_order(tmp_path: Path) -> None:
    module, source = method().eval(), Shapes(train=10, test=20, size=16)
    images = source.load("test")
    expected = module.encoder(images.images / 255).pooled
    batch = images.__getitems__([4, 9, 2])
    with torch.no_grad():
        validated = module.validation_step(batch, 0)
        loader = DataLoader(images, batch_size=8, collate_fn=lambda batch: batch)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        parts = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet).predict(module, loader)
    assert set(validated) == {"features", "label"}
    torch.testing.assert_close(validated["features"], expected[[4, 9, 2]])
    assert torch.equal(validated["label"], images.labels[[4, 9, 2]])
    assert torch.cat([part["index"] for part in parts]).tolist() == list(range(20))
    torch.testing.assert_close(torch.cat([part["features"] for part in parts]), expected)


def test_a_step_without_labels_returns_none(tmp_path: Path) -> None:
    module = method().eval()
    assert set(module.validation_step({"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, 0)) == {"features"}


class MeanPixel(Method):
    """A method without projections: a linear layer on features predicts an image's mean colour."""

    def __init__(self, encoder: Encoder, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.colour = torch.nn.Linear(encoder.embed_dim, 3)

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        pooled = self.encoder(batch["views"][0]).pooled
        loss = (self.colour(pooled) - batch["views"][0].mean((2, 3))).square().mean()
        return self.finish(loss, pooled, batch)


def test_a_method_without_projections_trains_resumes_and_is_evaluated(
    cli: Callable[[list[Any]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    without = [arg for arg in TINY if "model.head" not in arg and "model.encoder" not in arg]
    own = [f"--model={__name__}.MeanPixel", "--model.encoder.width=2", "--trainer.check_val_every_n_epoch=1"]
    run = cli([*without, *own])
    assert "MeanPixel has no projections of views to compare: Representation measures its features only" in caplog.text
    history = load_run(run).history
    assert {"representation/rankme", "val/knn", "val/probe"} <= history.keys()
    assert not {"representation/alignment", "information/infonce"} & history.keys()
    assert cli([*without, *own, "--ckpt_path=last", "--trainer.max_epochs=3"]) == run
    checkpoint = run / "checkpoints/last.ckpt"
    knn = [f"--config={CONFIGS / 'evaluate/knn.yaml'}", *EVALUATION]
    evaluated = cli(["validate", *knn, f"--model.checkpoint={checkpoint}", f"--model.allow=[{__name__}.MeanPixel]"])
    assert (evaluated / "result.json").is_file()


class Masking(Smallest):
    """Draws a random number for each image, for two purposes, also in validation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drawn: dict[str, list[torch.Tensor]] = {"mask": [], "angle": [], "shown": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        for name in ("mask", "angle"):
            self.drawn[name].append(uniform(self.generator(name), len(batch["image"]), along=0))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:
        self.drawn["shown"].append(uniform(self.generator("mask"), 4, along=0))
        return super().validation_step(batch, batch_idx)


def test_a_methods_random_numbers_depend_on_seed_step_purpose_and_position(tmp_path: Path) -> None:
    module, again = (Masking(FastCNN(2), optimizer=sgd) for _ in range(2))
    fit(tmp_path, module, limit_val_batches=1)
    steps = module.drawn["mask"]
    assert len({tuple(row.tolist()) for row in (*steps, *module.drawn["angle"])}) == 20  # ten steps, two purposes
    for step, row in enumerate(steps):
        expected = [uniform(make_generator(0, step, module.device, rank, 2, "mask"), 4, along=0) for rank in range(2)]
        assert torch.equal(row, torch.stack(expected, 1).flatten())  # rank r has images r, r + 2, …
    shown = module.drawn["shown"]
    assert len(shown) > 2
    assert all(torch.equal(row, shown[0]) for row in shown)
    torch.rand(3)
    fit(tmp_path, again, limit_val_batches=1)
    assert all(torch.equal(*pair) for pair in zip(steps, again.drawn["mask"], strict=True))


def test_a_method_without_training_step_cannot_be_instantiated() -> None:
    class Nothing(Method):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?training_step'?"):
        Nothing(FastCNN(2), optimizer=sgd)
