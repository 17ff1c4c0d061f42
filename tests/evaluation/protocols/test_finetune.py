"""Fine-tuning trains a copy of the encoder by AdamW, early layers more slowly, and does not change the encoder."""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.data import ImageDataModule, ShapesClips
from simmim_pl.data.source import InMemory, Source
from simmim_pl.encoders import FastCNN, ResNet, Swin, Timm
from simmim_pl.evaluation import FineTune
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.protocols.finetune import Tuned, layer_groups, predict
from simmim_pl.views import CropFlip

STILL = CropFlip(scale=(1, 1), ratio=(1, 1), flip=0)  # views that are the image
BATCH = 16


class Colours(Source):
    """Noisy images of three colours; the colour is the class. The labels of ``test`` can be wrong."""

    def __init__(self, truthful: bool = True) -> None:
        self.classes = ["red", "green", "blue"]
        self.truthful = truthful

    def load(self, split: str) -> InMemory:
        number = {"train": 72, "test": 31}[split]
        labels = torch.arange(number) % 3
        image = torch.randint(0, 120, (number, 3, 16, 16), generator=torch.Generator().manual_seed(number))
        image[torch.arange(number), labels] += 100
        return InMemory(image.to(torch.uint8), labels if split == "train" or self.truthful else (labels + 1) % 3)


class Block(nn.Module):
    """A residual linear layer of each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.linear(self.norm(tokens)).tanh()


class Tokens(Encoder):
    """A small vision transformer: a token, patch embedding, blocks, a norm."""

    def __init__(self, blocks: int = 3, width: int = 6) -> None:
        super().__init__(width, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.patch = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)

    def layers(self) -> list[str]:
        return [f"blocks.{number}" for number in range(len(self.blocks))]

    def forward(self, image: Tensor) -> Features:
        patches = self.patch(self.normalize(image))
        tokens = self.norm(self.blocks(patches.flatten(2).mT + self.cls_token))
        return Features(pooled=tokens.mean(1), feature_map=tokens.mT.reshape(patches.shape))


def seeded(kind: type[Encoder], *args: int) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args)


def context(encoder: Encoder, validation: int = 12, truthful: bool = True) -> EvaluationContext:
    data = ImageDataModule(Colours(truthful), batch_size=BATCH, validation=validation)
    data.setup("fit")
    data.setup("test")
    frozen = encoder.requires_grad_(False).eval()
    return EvaluationContext(frozen, data, "given", torch.device("cpu"), nullcontext, seed=1)


def groups(network: Tuned, decay: float) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter; every parameter is in exactly one group."""
    made = layer_groups(network, decay, lr=0.8, weight_decay=0.05)
    found = {id(each): (group["lr"], group["weight_decay"]) for group in made for each in group["params"]}
    assert sum(len(group["params"]) for group in made) == len(found) == len(list(network.parameters()))
    return {name: found[id(parameter)] for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_learning_rates_decay_by_layer_and_norms_and_biases_have_no_weight_decay(decay: float) -> None:
    depth = {
        "encoder.cls_token": 3,
        "encoder.patch": 3,
        "encoder.blocks.0": 2,
        "encoder.blocks.1": 1,
        "encoder.norm": 0,
        "classifier": 0,
    }
    for name, found in groups(Tuned(Tokens(blocks=2), classes=3), decay).items():
        below = next(below for place, below in depth.items() if name.startswith(place))
        spared = "norm" in name or name.endswith("bias")
        assert found == (pytest.approx(0.8 * decay**below), 0.0 if spared else 0.05), name


def test_transformer_layers_equal_timm() -> None:
    net = timm.create_model("test_vit", num_classes=3)
    found = groups(Tuned(Timm("test_vit"), classes=3), 0.7)
    spared, known = net.no_weight_decay(), {}
    for name, parameter in net.named_parameters():
        known[id(parameter)] = f"encoder.net.{name}".replace("encoder.net.head", "classifier")
    assert set(known.values()) == found.keys()
    for group in param_groups_layer_decay(net, 0.05, no_weight_decay_list=spared, layer_decay=0.7):
        for name in (known[id(each)] for each in group["params"]):
            # The last norm is the last block's in timm, and the classifier's in the code of BEiT and SimMIM.
            scale = 1.0 if name.startswith("encoder.net.norm.") else group["lr_scale"]
            assert found[name] == (pytest.approx(0.8 * scale), group["weight_decay"]), name


def get_swin_layer(name: str, num_layers: int, depths: Sequence[int]) -> int:
    """SimMIM's authors' rule: https://github.com/microsoft/SimMIM/blob/main/optimizer.py, of names in their Swin."""
    if name.startswith("patch_embed"):
        return 0
    if not name.startswith("layers"):
        return num_layers - 1
    _, stage, _, part, *_ = name.split(".")
    if part in ("reduction", "norm"):  # layers.0.downsample.reduction.weight
        return sum(depths[: int(stage) + 1])
    return sum(depths[: int(stage)]) + int(part) + 1  # layers.0.blocks.0.attn.qkv.weight


def test_layers_of_a_swin_are_the_blocks_as_in_simmims_code() -> None:
    depths, decay = (2, 1, 3), 0.7
    encoder = Swin(2, 8, depths, (1, 1, 1))

    def in_their_swin(name: str) -> str:
        kind, *rest = name.removeprefix("encoder.").split(".")
        if kind in ("patches", "patches_norm"):
            return "patch_embed"
        if kind != "stages":
            return name
        stage, number, *inside = rest  # ours merges patches at the beginning of a stage
        if stage != "0" and number == "0":
            return ".".join(["layers", str(int(stage) - 1), "downsample", *inside])
        return ".".join(["layers", stage, "blocks", str(int(number) - (stage != "0")), *inside])

    top = sum(depths) + 1
    found = groups(Tuned(encoder, classes=3), decay)
    assert {get_swin_layer(in_their_swin(name), top + 1, depths) for name in found} == {*range(top + 1)}
    for name, (rate, _) in found.items():
        below = top - get_swin_layer(in_their_swin(name), top + 1, depths)
        assert rate == pytest.approx(0.8 * decay**below), name
    assert encoder.layers() == ["stages.0", "stages.1", "stages.2"]


def test_resnet_parameters_between_layers_belong_to_the_previous_layer() -> None:
    found = groups(Tuned(ResNet(18), classes=3), 0.5)
    rates = {name: found[f"encoder.net.{name}.weight"][0] for name in ("0", "1", "4.0.conv1", "7.1.conv2")}
    assert rates == {"0": 0.8 / 32, "1": 0.8 / 32, "4.0.conv1": 0.8 / 16, "7.1.conv2": 0.8 / 2}


def test_an_encoder_without_layers_has_one_learning_rate() -> None:
    network = Tuned(Tokens(blocks=2), classes=3)
    network.encoder.layers = list
    assert {rate for rate, _ in groups(network, 1.0).values()} == {0.8}
    with pytest.raises(InputError, match="Tokens names no layers, so layer_decay has to be 1"):
        groups(network, 0.9)


def by_hand(on: EvaluationContext, peak: float, epochs: int, warmup: int) -> Tuned:
    """A plain loop of AdamW over all parameters, linear warm-up, then cosine."""
    network = Tuned(copy.deepcopy(on.encoder).requires_grad_(True), 3)
    train = on.data.splits["train"]
    image, label = train.dataset.images[list(train.indices)], train.dataset.labels[list(train.indices)]
    steps = len(label) // BATCH
    optimizer, step = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.0), 0
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(label), generator=torch.Generator().manual_seed(on.seed + epoch))
        for rows in order[: steps * BATCH].split(BATCH):
            cosine = (1 + math.cos(math.pi * (step - warmup) / (epochs * steps - warmup))) / 2
            optimizer.param_groups[0]["lr"] = peak * (min(1, (step + 1) / warmup) if step < warmup else cosine)
            optimizer.zero_grad()
            F.cross_entropy(network(image[rows] / 255), label[rows]).backward()
            optimizer.step()
            step += 1
    return network.eval()


def test_without_layer_decay_it_is_plain_adamw() -> None:
    on = context(seeded(Tokens))
    before = {name: value.clone() for name, value in on.encoder.state_dict().items()}
    protocol = FineTune(STILL, lr=(0.16,), layer_decay=1.0, weight_decay=0.0, epochs=3, warmup_epochs=1.5)
    network = protocol.tuned(on, 0.16, 3)
    expected = by_hand(on, peak=0.16 * BATCH / 256, epochs=3, warmup=round(1.5 * on.steps("train")))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    moved = [name for name, value in before.items() if not torch.equal(network.encoder.state_dict()[name], value)]
    assert moved == [name for name, _ in on.encoder.named_parameters()]


def test_the_copy_learns_and_the_encoder_is_unchanged() -> None:
    on = context(seeded(FastCNN, 4))
    before = digest(on.encoder)
    protocol = FineTune(CropFlip(), lr=(0.2,), epochs=6)
    (result,) = protocol.evaluate(on)
    assert result.metrics["accuracy"].value > 0.95
    assert result.chosen == {"lr": 0.2}
    assert digest(on.encoder) == before
    assert not any(part.training for part in on.encoder.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in on.encoder.parameters())


def test_the_copy_updates_running_statistics_and_is_returned_in_eval_mode() -> None:
    on = context(seeded(FastCNN, 2))
    network = FineTune(STILL, lr=(0.2,), epochs=1).tuned(on, 0.2, 3)
    statistics = {
        name: value for name, value in on.encoder.named_buffers() if name.endswith(("running_mean", "running_var"))
    }
    assert all(not torch.equal(value, network.encoder.get_buffer(name)) for name, value in statistics.items())
    assert torch.equal(network.encoder.mean, on.encoder.mean)  # a buffer that does not change
    assert not any(part.training for part in network.modules())


def test_early_layers_change_less_than_late_ones() -> None:
    on = context(seeded(Tokens))
    network = FineTune(STILL, lr=(0.05,), layer_decay=0.1, weight_decay=0.0, epochs=1).tuned(on, 0.05, 3)
    moved = [
        (network.encoder.get_parameter(name) - on.encoder.get_parameter(name)).abs().max().item()
        for name in ("patch.weight", "blocks.0.linear.weight", "blocks.1.linear.weight", "blocks.2.linear.weight")
    ]
    ratios = [late / early for early, late in pairwise(moved)]
    assert ratios == pytest.approx([10, 10, 10], rel=0.5)


def test_the_network_depends_on_the_seed_and_not_on_global_state() -> None:
    networks = []
    for state in (1, 2):
        torch.manual_seed(state)
        networks.append(FineTune(CropFlip(), lr=(0.2,), epochs=1).tuned(context(seeded(FastCNN, 2)), 0.2, 3))
    assert digest(networks[0]) == digest(networks[1])


def test_the_learning_rate_is_selected_on_validation_among_those_that_converged() -> None:
    protocol = FineTune(STILL, lr=(0.1, 1e30, 1e-6), epochs=3)
    (one,), (other,) = (protocol.evaluate(context(seeded(Tokens), truthful=truthful)) for truthful in (True, False))
    tried = one.chosen["validation accuracy by lr"]
    assert list(tried) == ["1e-06", "0.1", "1e+30"]
    assert tried["0.1"] > tried["1e-06"]
    assert one.chosen["lr"] == 0.1
    assert other.chosen == one.chosen
    assert one.metrics["accuracy"].value > other.metrics["accuracy"].value


def test_every_image_is_predicted_once_in_order() -> None:
    on = context(seeded(Tokens))
    network = FineTune(STILL, lr=(0.1,), epochs=1).tuned(on, 0.1, 3)
    for split, number in {"train": 60, "validation": 12, "test": 31}.items():
        predicted, labels = predict(network, on, split)
        whole, index = on.data.splits[split].dataset, list(on.data.splits[split].indices)
        assert torch.equal(labels, whole.labels[index])
        assert torch.equal(predicted, network(whole.images[index] / 255).argmax(1))
        assert len(predicted) == number


def test_only_several_learning_rates_need_validation_images() -> None:
    on = context(seeded(Tokens), validation=0)
    assert FineTune(STILL, lr=(0.1,), epochs=1).evaluate(on)[0].chosen == {"lr": 0.1}
    with pytest.raises(InputError, match="The validation split is empty"):
        FineTune(STILL, lr=(0.1, 0.2), epochs=1).evaluate(on)


def test_clips_are_refused() -> None:
    data = ImageDataModule(ShapesClips(train=20, test=20, size=16, copies=1, frames=2), validation=5)
    data.setup("fit")
    with pytest.raises(InputError, match="ShapesClips holds clips"):
        FineTune(STILL).evaluate(EvaluationContext(seeded(Tokens), data, "given", torch.device("cpu"), nullcontext))


@pytest.mark.parametrize("layer_decay", [0.0, -0.1, 1.1, math.nan])
def test_a_layer_decay_out_of_range_is_refused(layer_decay: float) -> None:
    with pytest.raises(InputError, match="layer_decay has to be"):
        FineTune(STILL, layer_decay=layer_decay)


@pytest.mark.parametrize(("lr", "epochs"), [((), 1), ((0.0,), 1), ((0.1,), 0)])
def test_a_schedule_that_trains_nothing_is_refused(lr: tuple[float, ...], epochs: int) -> None:
    with pytest.raises(InputError, match=r"(lr|epochs) has to be|at least one learning rate"):
        FineTune(STILL, lr=lr, epochs=epochs)
