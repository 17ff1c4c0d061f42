"""The requested encoder is evaluated frozen, and an encoder that changes during evaluation is detected."""

import copy
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import (
    FrozenGuard,
    RawPixels,
    attributes,
    digest,
    require_frozen,
    source_code,
    subjects,
)
from simmim_pl.runtime.checkpoint import load_encoder


def asked(
    checkpoint: Path | None = None,
    encoder: Encoder | None = None,
    weights: Path | None = None,
    baselines: bool = True,
    seed: int = 0,
) -> dict[str, Encoder]:
    paths = [None if path is None else str(path) for path in (checkpoint, weights)]
    return subjects(paths[0], encoder, paths[1], baselines, (), seed)


def network(seed: int = 0) -> FastCNN:
    torch.manual_seed(seed)
    return FastCNN(2)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Another tool's file: the encoder's tensors under a prefix, with a classifier's."""
    state = {f"module.{name}": tensor for name, tensor in network(seed=9).state_dict().items()}
    torch.save({"state_dict": {**state, "module.fc.weight": torch.zeros(10, 16)}}, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


def test_table_columns_name_the_evaluated_encoders(pretrained: Path, weights: Path) -> None:
    assert list(asked(pretrained)) == ["pretrained", "untrained", "raw pixels"]
    assert list(asked(pretrained, baselines=False)) == ["pretrained"]
    assert list(asked(encoder=network())) == ["given", "raw pixels"]
    assert list(asked(encoder=network(), baselines=False)) == ["given"]
    assert list(asked(encoder=network(), weights=weights)) == ["given", "without weights", "raw pixels"]
    assert list(asked(encoder=network(), weights=weights, baselines=False)) == ["given"]


def test_other_networks_need_a_checkpoint() -> None:
    with pytest.raises(InputError, match=r"--model.network teacher selects from a checkpoint: set --model.checkpoint"):
        subjects(None, network(), None, True, (), 0, "teacher")


@pytest.mark.parametrize("both", [True, False])
def test_exactly_one_of_checkpoint_and_encoder_is_required(pretrained: Path, both: bool) -> None:
    with pytest.raises(InputError, match=r"either --model\.checkpoint PATH or --model\.encoder, not both"):
        asked(pretrained if both else None, network() if both else None)


def test_weights_need_an_encoder(pretrained: Path, weights: Path) -> None:
    for checkpoint in (pretrained, None):
        with pytest.raises(InputError, match=r"--model\.weights PATH goes with --model\.encoder"):
            asked(checkpoint, weights=weights)


def test_the_evaluated_encoder_is_the_checkpoints_and_the_baseline_is_not(pretrained: Path) -> None:
    saved = torch.load(pretrained, weights_only=True)["state_dict"]
    found = asked(pretrained, seed=3)
    loaded, fresh = (found[name].state_dict() for name in ("pretrained", "untrained"))
    assert all(torch.equal(tensor, saved[f"encoder.{name}"]) for name, tensor in loaded.items())
    assert fresh.keys() == loaded.keys()
    kernels = [name for name, tensor in fresh.items() if tensor.ndim == 4 and name not in ("mean", "std")]
    assert kernels
    assert all(not torch.equal(fresh[name], loaded[name]) for name in kernels)


def test_the_untrained_encoder_is_a_function_of_the_seed(pretrained: Path) -> None:
    torch.manual_seed(3)
    expected = load_encoder(str(pretrained), trained=False)
    states, found = [], {}
    for baselines in (False, True):
        torch.manual_seed(7)
        found = asked(pretrained, seed=3, baselines=baselines)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)  # and does not change global random state
    assert digest(found["untrained"]) == digest(expected)
    assert digest(asked(pretrained, seed=4)["untrained"]) != digest(expected)


def test_a_given_encoder_is_evaluated_unchanged() -> None:
    encoder = network()
    before = digest(encoder)
    assert asked(encoder=encoder)["given"] is encoder
    assert digest(encoder) == before


def test_weights_are_loaded_into_the_encoder_and_not_into_its_untrained_copy(weights: Path) -> None:
    found = asked(encoder=network(seed=1), weights=weights)
    assert digest(found["given"]) == digest(network(seed=9))
    assert digest(found["without weights"]) == digest(network(seed=1))
    assert digest(network(seed=1)) != digest(network(seed=9))


@pytest.mark.parametrize("source", ["checkpoint", "encoder", "weights"])
def test_evaluated_encoders_are_frozen_and_in_eval_mode(pretrained: Path, weights: Path, source: str) -> None:
    given = {
        "checkpoint": {"checkpoint": pretrained},
        "encoder": {"encoder": network()},
        "weights": {"encoder": network(), "weights": weights},
    }
    for encoder in asked(**given[source]).values():  # type: ignore[arg-type]
        require_frozen(encoder)
        assert not any(part.training for part in encoder.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_an_unfrozen_module_is_not_accepted_as_frozen() -> None:
    encoder = asked(encoder=network(), baselines=False)["given"]
    next(encoder.parameters()).requires_grad_(True)
    with pytest.raises(AssertionError):
        require_frozen(encoder)
    next(encoder.parameters()).requires_grad_(False)
    encoder.net[1].train()
    with pytest.raises(InputError, match="left eval mode"):
        require_frozen(encoder)


class Honest(FastCNN):
    """Has attributes and does not change them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(2)
        self.calls, self.seen, self.memory = 0, [1], {"last": 2.0}
        self.kept = torch.zeros(2)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)

    def forward(self, image: Tensor) -> Features:
        self.cheat(image)
        return super().forward(image)

    def cheat(self, image: Tensor) -> None:
        """A forbidden change."""


class Statistics(Honest):
    def cheat(self, image: Tensor) -> None:
        norm = self.net[0][1]
        F.batch_norm(self.net[0][0](image), norm.running_mean, norm.running_var, training=True)


class Parameter(Honest):
    def cheat(self, image: Tensor) -> None:
        next(self.parameters()).data.add_(1e-4 * image.mean())


class OwnBuffer(Honest):
    def cheat(self, image: Tensor) -> None:
        self.mean.lerp_(image.mean((0, 2, 3))[:, None, None], 1e-5)


class Hidden(Honest):
    def cheat(self, image: Tensor) -> None:
        self.hidden += 1


class Counter(Honest):
    def cheat(self, image: Tensor) -> None:
        self.calls += 1


class InnerCounter(Honest):
    def cheat(self, image: Tensor) -> None:
        self.net[3].calls = getattr(self.net[3], "calls", 0) + 1


class Collector(Honest):
    def cheat(self, image: Tensor) -> None:
        self.seen.append(len(image))


class Memory(Honest):
    def cheat(self, image: Tensor) -> None:
        self.memory["last"] = image.mean().item()


class Keeper(Honest):
    def cheat(self, image: Tensor) -> None:
        self.kept[0] = image.mean()


class Trains(Honest):
    def cheat(self, image: Tensor) -> None:
        self.train()


class TrainsAPart(Honest):
    def cheat(self, image: Tensor) -> None:
        self.net[3].train()


CHEATS = [
    *(Statistics, Parameter, OwnBuffer, Hidden, Counter, InnerCounter, Collector, Memory, Keeper, Trains, TrainsAPart)
]


def extract(encoder: Encoder, cache: Path, batch_size: int) -> Tensor:
    images = ImageDataModule(SHAPES, batch_size=batch_size, validation=10)
    images.setup("test")
    context = EvaluationContext(encoder, images, "given", torch.device("cpu"), nullcontext, cache=cache)
    return context.features("test")[0]


SHAPES = Shapes(train=20, test=20, size=16, copies=1)


@pytest.mark.parametrize("batch_size", [8, 32])  # some compare with the previous batch, which may not exist
@pytest.mark.parametrize("kind", CHEATS)
def test_an_encoder_that_changes_is_refused(kind: type[Honest], batch_size: int, tmp_path: Path) -> None:
    encoder = asked(encoder=kind(), baselines=False)["given"]
    with pytest.raises(InputError, match=f"{kind.__name__} changed while|left eval mode|gave different features"):
        extract(encoder, tmp_path / "cache", batch_size)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", CHEATS)
def test_the_guard_alone_detects_every_change(kind: type[Honest]) -> None:
    encoder = asked(encoder=kind(), baselines=False)["given"]
    watch = FrozenGuard(encoder)
    watch.check()
    encoder(torch.rand(2, 3, 16, 16))
    with pytest.raises(InputError, match=f"{kind.__name__} changed while it was evaluated|left eval mode"):
        watch.check()


def test_an_unchanged_encoder_is_evaluated(tmp_path: Path) -> None:
    encoder = asked(encoder=Honest(), baselines=False)["given"]
    features = extract(encoder, tmp_path / "cache", 8)
    assert features.shape == (20, 16)
    assert len(list((tmp_path / "cache").iterdir())) == 1


class Lazy(Honest):
    """Fills a cache at its first forward pass, by device, like LeViT's attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.biases: dict[str, Tensor] = {}

    def cheat(self, image: Tensor) -> None:
        self.biases.setdefault(str(image.device), torch.ones(2))


class Whitens(Honest):
    """Stores the first images, and encodes all others relative to them."""

    def cheat(self, image: Tensor) -> None:
        if not self.kept.any():
            self.kept = image.mean((0, 2, 3))


def test_a_cache_filled_at_the_first_forward_is_allowed(tmp_path: Path) -> None:
    for _ in range(2):  # the second uses the cached features of the first
        features = extract(asked(encoder=Lazy(), baselines=False)["given"], tmp_path / "cache", 8)
        assert features.shape == (20, 16)
        assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_depends_on_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Whitens changed while"):
        extract(asked(encoder=Whitens(), baselines=False)["given"], tmp_path / "cache", 32)


def test_hooks_and_gradient_modes_are_not_changes() -> None:
    encoder = asked(encoder=Honest(), baselines=False)["given"]
    watch = FrozenGuard(encoder)
    encoder.register_forward_hook(lambda *_: None)
    encoder.to(memory_format=torch.channels_last)
    watch.check()


def holding(**buffers: Tensor) -> nn.Module:
    module = nn.Module()
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor, persistent=False)
    return module


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 3)},  # name
        {"a": torch.zeros(2, 3, dtype=torch.int32)},  # type, the same bytes
        {"a": torch.zeros(3, 2)},  # shape, the same bytes
        {"a": torch.zeros(6)},
        {"a": torch.tensor([[0.0, 0, 0], [0, 0, 1e-45]])},  # value
        {"a": torch.full((2, 3), -0.0)},
        {"a": torch.full((2, 3), float("nan"))},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
        {},
    ],
)
def test_the_digest_depends_on_names_types_shapes_and_values(other: dict[str, Tensor]) -> None:
    assert digest(holding(**other)) != digest(holding(a=torch.zeros(2, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.bool, torch.int64, torch.complex64])
def test_the_digest_supports_every_type_and_zero_dimensions(dtype: torch.dtype) -> None:
    first, again, other = (digest(holding(a=torch.tensor(value, dtype=dtype))) for value in (0, 0, 1))
    assert first == again != other


def test_the_digest_ignores_memory_layout() -> None:
    encoder = network()
    other = copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    assert digest(encoder) == digest(other)
    turned = torch.arange(6.0).view(3, 2).T
    assert digest(holding(a=turned)) == digest(holding(a=turned.contiguous()))


@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module, "text", "other"),
        lambda module: setattr(module, "flag", 1),  # equal to True, and another
        lambda module: module.nested["list"][0].append(3),
        lambda module: module.kept.add_(1),
        lambda module: setattr(module, "new", None),
        lambda module: delattr(module, "text"),
        lambda module: setattr(module[0], "inner", 2),
    ],
)
def test_nested_attributes_are_included(change: Callable[[Any], Any]) -> None:
    module: Any = nn.Sequential(nn.Identity())
    module.text, module.flag, module.kept = "some", True, torch.zeros(2)
    module.nested = {"list": [[1, 2], (torch.ones(1),)]}
    before = attributes(module)
    assert attributes(module) == attributes(copy.deepcopy(module)) == before
    change(module)
    assert attributes(module) != before


def test_raw_pixels_are_the_pixels() -> None:
    image = torch.rand(2, 3, 4, 5)
    found = RawPixels()(image)
    assert torch.equal(found.pooled, image.reshape(2, 60))
    assert torch.equal(found.feature_map, image)


def test_source_code_includes_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for name, factor in (("first_part", 1), ("second_part", 2)):
        text = f"from torch import nn\nclass Part(nn.Module):\n    def forward(self, x):\n        return {factor} * x\n"
        (tmp_path / f"{name}.py").write_text(text)
        encoder = FastCNN(2)
        encoder.net.append(importlib.import_module(name).Part())
        hashes.append(source_code(encoder))
    assert len({source_code(FastCNN(2)), *hashes}) == 3
    assert "" not in hashes
    typed = type("Typed", (nn.Module,), {"__module__": "nowhere"})
    encoder.net.append(typed())
    assert source_code(encoder) == ""
