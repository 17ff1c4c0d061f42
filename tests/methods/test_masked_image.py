"""Masks are exact, loss and gradients equal Hugging Face's, masked pixels are not seen, and a run works."""

import csv
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import SwinConfig, SwinForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling

from simmim_pl import load_encoder
from simmim_pl.contracts import Encoder, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN, Swin, Torchvision, ViT
from simmim_pl.methods import MaskedImage
from simmim_pl.methods.masked_image import l1_at_chance, masked_l1
from simmim_pl.runtime.schedule import parameter_groups
from simmim_pl.runtime.seeding import make_generator
from simmim_pl.views import CropFlip
from tests.conftest import TINY, isolate, newest_run
from tests.encoders.test_swin import of_hugging_face as swin_of_hugging_face
from tests.encoders.test_vit import of_hugging_face as vit_of_hugging_face
from tests.test_parity import MASKED

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False, "enable_checkpointing": False, "limit_val_batches": 0}
SMALL = {"patch_size": 4, "width": 8, "depth": 2, "num_heads": 2}


def method(encoder: Encoder, lr: float = 0.0, **options: Any) -> MaskedImage:
    return MaskedImage(encoder, optimizer=partial(torch.optim.SGD, lr=lr), **options)


def seeded(network: MaskedImage, seed: int) -> MaskedImage:
    """With masks that need no trainer."""
    network.generator = lambda purpose: make_generator(seed, 0, torch.device("cpu"), purpose=purpose)  # type: ignore
    return network


@settings(max_examples=50)
@given(
    unit=st.sampled_from([2, 4, 8]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    percent=st.integers(1, 100),
    seed=st.integers(0, 2**32),
)
def test_masks_have_the_same_number_of_whole_units_in_every_image(
    unit: int, height: int, width: int, percent: int, seed: int
) -> None:
    network = seeded(method(FastCNN(2), mask_unit=unit, mask_ratio=percent / 100), seed)
    mask = network.mask(torch.zeros(5, 3, unit * height, unit * width))
    cells = mask.view(5, height, unit, width, unit).transpose(2, 3).flatten(3)
    assert torch.equal(cells.all(-1), cells.any(-1))
    assert (cells.all(-1).sum((1, 2)) == math.ceil(Fraction(percent, 100) * height * width)).all()


def test_images_of_five_channels_are_predicted_in_all_of_them() -> None:
    image = torch.rand(2, 5, 16, 16)
    for encoder in (FastCNN(2, channels=5), ViT(16, channels=5, **SMALL)):
        network = seeded(method(encoder), 0)
        (rows,) = network.eval().pictures({"image": (65535 * image).to(torch.uint16)}).values()
        assert rows.shape == (2, 3, 5, 16, 16)
        mask = network.mask(image)
        assert torch.equal(rows[:, 1] == 0.5, mask.expand_as(image))
        torch.testing.assert_close(rows[:, 2][~mask.expand_as(image)], image[~mask.expand_as(image)], atol=1e-4, rtol=0)
    once = masked_l1(image[:, :1], image[:, 1:2], mask)
    torch.testing.assert_close(masked_l1(*(image[:, at][:, None].expand_as(image) for at in (0, 1)), mask), once)
    assert l1_at_chance(image, mask) < masked_l1(torch.zeros_like(image), image, mask)


def test_masks_are_uniform_and_independent_between_images() -> None:
    mask = seeded(method(FastCNN(2), mask_unit=4, mask_ratio=0.5), 0).mask(torch.zeros(4000, 3, 8, 8))
    corners = mask[:, 0, ::4, ::4].flatten(1)
    assert len(corners.unique(dim=0)) == math.comb(4, 2)
    torch.testing.assert_close(corners.double().mean(0), torch.full((4,), 0.5).double(), atol=0.04, rtol=0)


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_tokens_positions_biases_and_norms_have_no_weight_decay(position: Literal["learned", "relative"]) -> None:
    network = method(ViT(image_size=16, pool="class", position=position, **SMALL))
    decayed, _ = parameter_groups(network, decay_norm_and_bias=False)
    held = {id(parameter) for parameter in decayed["params"]}
    decayed_names = {name for name, parameter in network.named_parameters() if id(parameter) in held}
    assert {"encoder.patches.weight", "decoder.0.weight"} < decayed_names
    assert all(name.endswith("weight") and ".norm" not in name for name in decayed_names)
    spared = {name for name, _ in network.named_parameters()} - decayed_names
    assert {"mask_token", "encoder.class_token"} < spared
    assert any("position" in name for name in spared)


def test_the_loss_is_the_mean_error_of_masked_pixels() -> None:
    network = seeded(method(FastCNN(2), mask_ratio=0.3), 0)
    predicted, target = torch.randn(2, 3, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    mask = network.mask(target)
    chosen = np.broadcast_to(mask.numpy(), target.shape)
    assert chosen.sum() == 3 * 3 * 3 * 16  # images · channels · units · pixels
    error = np.abs(predicted.numpy() - target.numpy())[chosen]
    assert masked_l1(predicted, target, mask).item() == pytest.approx(error.mean(), rel=1e-6)


def test_chance_is_the_error_of_the_best_single_colour() -> None:
    target = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).exp()  # skewed: no mean would do
    median = np.median(target.numpy(), axis=(0, 2, 3), keepdims=True)
    everywhere = torch.ones(4, 1, 8, 8, dtype=torch.bool)
    expected = np.abs(target.numpy() - median).mean()
    assert l1_at_chance(target, everywhere).item() == pytest.approx(expected, rel=1e-6)
    masked = seeded(method(FastCNN(2)), 0).mask(target)
    colour = torch.from_numpy(median).expand_as(target)
    assert l1_at_chance(target, masked).item() == pytest.approx(masked_l1(colour, target, masked).item(), rel=0.01)


def vits() -> tuple[nn.Module, Encoder, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    sizes = {"image_size": 16, "patch_size": 4, "encoder_stride": 4, "layer_norm_eps": 1e-6}
    heads = {"num_attention_heads": 2, "num_hidden_layers": 2}
    theirs = ViTForMaskedImageModeling(ViTConfig(**sizes, **heads, hidden_size=8, intermediate_size=32))
    return theirs, ViT(image_size=16, pool="class", **SMALL), vit_of_hugging_face


def swins() -> tuple[nn.Module, Encoder, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    sizes = {"image_size": 16, "patch_size": 2, "encoder_stride": 4, "window_size": 4, "drop_path_rate": 0.0}
    theirs = SwinForMaskedImageModeling(SwinConfig(**sizes, embed_dim=8, depths=[2, 1], num_heads=[2, 4]))
    return theirs, Swin(2, 8, (2, 1), (2, 4), window_size=4), swin_of_hugging_face


@pytest.mark.parametrize("pair", [vits, swins])
def test_loss_and_gradients_equal_hugging_face(pair: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    theirs, encoder, translate = pair()
    ours, trunk = seeded(method(encoder), 0), theirs.base_model_prefix
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)  # large enough that no gradient is almost zero
    if pair is vits:
        theirs.vit.embeddings.position_embeddings.data[:, 0] = 0  # ours is part of the class token
    names = {"encoder": lambda named: translate(part(named, trunk)), "decoder": lambda named: part(named, "decoder")}

    def translated(named: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {f"{mine}.{name}": value for mine, of in names.items() for name, value in of(named).items()}
        return found | {"mask_token": named[f"{trunk}.embeddings.mask_token"].flatten()}

    ours.load_state_dict(translated(dict(theirs.named_parameters())), strict=False)
    ours, theirs = ours.double(), theirs.double()
    image = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    mask = ours.mask(image)
    patches, target = encoder.patch_size, encoder.normalize(image)
    expected = theirs(target, bool_masked_pos=mask[:, 0, ::patches, ::patches].flatten(1))
    predicted = ours.reconstruct(image, mask)[1]
    torch.testing.assert_close(predicted, expected.reconstruction, atol=1e-6, rtol=1e-6)
    loss = masked_l1(predicted, target, mask)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)  # whose denominator has 1e-5 more
    loss.backward()
    expected.loss.backward()
    gradients = translated({name: each.grad for name, each in theirs.named_parameters()})
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-5)
        assert parameter.grad.abs().max() > 1e-4, name


def part(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in named.items() if name.startswith(f"{prefix}.")}


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ViT(image_size=16, **SMALL),
        lambda: ViT(image_size=16, position="relative", **SMALL),
        lambda: Swin(2, 8, (1, 1), (2, 4)),
        FastCNN,
    ],
)
def test_only_unmasked_pixels_reach_the_encoder(encoder: Callable[[], Encoder]) -> None:
    torch.manual_seed(0)
    network = seeded(method(encoder(), mask_unit=4).eval(), 0)
    image, other = torch.rand(2, 2, 3, 16, 16)
    mask = network.mask(image)
    with torch.no_grad():
        predicted = network.reconstruct(image, mask)[1]
        assert torch.equal(predicted, network.reconstruct(torch.where(mask, other, image), mask)[1])
        assert not torch.equal(predicted, network.reconstruct(torch.where(mask, image, other), mask)[1])
    assert ("mask_token" in dict(network.named_parameters())) == (not isinstance(network.encoder, FastCNN))


class Last(Callback):
    """Records the last batch and its step's output."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batch, self.outputs = batch, outputs


@pytest.mark.parametrize("encoder", [lambda: ViT(image_size=16, **SMALL), lambda: FastCNN(2)])
def test_every_view_has_its_own_mask(encoder: Callable[[], Encoder]) -> None:
    torch.manual_seed(0)
    network, last = method(encoder()), Last()

    class Twice(CropFlip):
        def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
            return torch.cat([super(Twice, self).forward(image, generator) for _ in range(2)])

    data = ImageDataModule(Shapes(train=30, test=10, size=16), 8, Twice(16), validation=10, seed=3)
    Trainer(**QUIET, max_steps=2, callbacks=[last]).fit(network, datamodule=data)
    image = torch.cat(list(last.batch["views"]))
    order = torch.rand(16, 16, generator=make_generator(3, 1, torch.device("cpu"), purpose="mask")).argsort(1)
    mask = torch.zeros(16, 16).scatter_(1, order[:, :10], 1)  # ceil(0.6 · 16) of 16 units
    mask = nn.functional.interpolate(mask.view(16, 1, 4, 4), scale_factor=4).bool()
    with torch.no_grad():
        features, predicted = network.train().reconstruct(image, mask)
    expected = masked_l1(predicted, network.encoder.normalize(image), mask)
    assert last.outputs["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(last.outputs["features"], features.pooled, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("masked"))
        kept = ["--callbacks.embedding_map=null", "--callbacks.dashboard=null"]
        return newest_run([*TINY, *MASKED, "--model.optimizer.lr=0.2", *kept])


def test_a_run_learns_and_shows_its_reconstructions(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    losses = [float(row["train/loss"]) for row in rows]
    assert all(0.1 < float(row["train/loss_at_chance"]) < 2 for row in rows)
    assert losses[-1] < 0.95 * losses[0]
    assert load_encoder(run / "checkpoints/last.ckpt")(torch.rand(2, 3, 16, 16)).pooled.shape == (2, 8)
    pictures = np.load(run / "observed.npz")
    (shown,) = [pictures[name] for name in pictures.files if name.endswith("image, masked, reconstruction")]
    assert shown.shape == (8 * 18 + 2, 3 * 18 + 2, 3)
    image, masked, completed = (shown[2:18, 2 + 18 * column : 18 + 18 * column].astype(int) for column in range(3))
    hidden = (masked == 128).all(-1) | (masked == 127).all(-1)
    assert hidden.sum() >= 10 * 16
    assert (image != masked).any()
    assert ((image == completed).all(-1) | hidden).all()
    assert (image != completed).any()


def test_pictures_crop_images_not_divisible_by_units() -> None:
    network = seeded(method(FastCNN(2), mask_unit=4).eval(), 0)
    with torch.no_grad():
        (shown,) = network.pictures({"image": torch.randint(256, (2, 3, 18, 23), dtype=torch.uint8)}).values()
    assert shown.shape == (2, 3, 3, 16, 16)
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert network.pictures({"image": torch.zeros(2, 3, 18, 7, dtype=torch.uint8)}) == {}


def test_a_mask_unit_that_splits_patches_is_refused() -> None:
    with pytest.raises(InputError, match="mask_unit has to be a multiple of the encoder's patch_size 4, and is 6"):
        method(ViT(image_size=16, **SMALL), mask_unit=6)


def test_an_encoder_without_padding_is_refused() -> None:
    network = seeded(method(Torchvision("alexnet"), mask_unit=16), 0)
    with pytest.raises(InputError, match="Torchvision has no feature map of one position for every 32×32 pixels"):
        network.reconstruct(torch.rand(1, 3, 224, 224), torch.ones(1, 1, 224, 224).bool())


@pytest.mark.parametrize("mask_ratio", [0.0, 1.1, math.nan])
def test_a_ratio_out_of_range_is_refused(mask_ratio: float) -> None:
    with pytest.raises(InputError, match="mask_ratio has to be"):
        method(FastCNN(2), mask_ratio=mask_ratio)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"set --data\.views simmim_pl\.views\.CropFlip"),
        ({"views": CropFlip(16), "local_views": CropFlip(8)}, "does not use local views"),
        ({"views": CropFlip(12)}, "Views of 12×12 pixels cannot be masked: .* a multiple of 8"),
    ],
)
def test_views_that_cannot_be_masked_are_refused(options: dict[str, Any], says: str) -> None:
    data = ImageDataModule(Shapes(train=30, test=10, size=16), 8, validation=10, **options)
    with pytest.raises(InputError, match=says):
        Trainer(**QUIET, max_steps=1).fit(method(FastCNN(2)), datamodule=data)


def test_a_loader_without_views_is_refused() -> None:
    loader = DataLoader([{"image": torch.zeros(3, 16, 16)}] * 4, batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='A training batch has to be a mapping with "views"'):
        Trainer(**QUIET, max_steps=1).fit(method(FastCNN(2)), loader)


def test_compilation_makes_one_graph_each_of_encoder_and_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def loss(compile: bool) -> float:
        torch.manual_seed(0)
        last, data = Last(), ImageDataModule(Shapes(train=30, test=10, size=16), 8, CropFlip(16), validation=10)
        network = method(ViT(image_size=16, pool="class", **SMALL), lr=0.1, compile=compile)
        Trainer(**QUIET, max_steps=2, callbacks=[last]).fit(network, datamodule=data)
        return float(last.outputs["loss"])

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shape checks would be compiled too
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    assert loss(compile=True) == pytest.approx(loss(compile=False), abs=1e-6)
    assert len(graphs) == 2 or torch.__version__ < (2, 14)  # torch 2.10 does not compile an nn.Sequential by itself
