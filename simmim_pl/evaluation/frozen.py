"""What is evaluated: encoders that do not change, from a checkpoint or from elsewhere, and their baselines."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.encoders.layer import Layer
from simmim_pl.runtime.checkpoint import Network, load_encoder
from simmim_pl.runtime.weights import load_weights

PLAIN = (bool, int, float, complex, str, bytes, type(None))


class RawPixels(Encoder):
    """The baseline without a network: pixels are the features, and the image is the feature map.

    D = C · H · W. ``embed_dim`` is 0, because the image size is not known in advance.

    Args:
        channels: C.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__(0, [0.0] * channels, [1.0] * channels, stride=1, feature_map_channels=channels)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        return Features(pooled=image.flatten(1), feature_map=image)


def subjects(
    checkpoint: str | None,
    encoder: Encoder | None,
    weights: str | None,
    baselines: bool,
    allow: Sequence[str],
    seed: int,
    network: Network = "online",
    layer: str | None = None,
) -> dict[str, Encoder]:
    """The encoders of one evaluation by their name in its table, frozen and in eval mode.

    Raises:
        InputError: not exactly one of ``checkpoint`` and ``encoder`` is given; an encoder cannot be loaded or has no
            such layer; or ``network`` is set without a checkpoint.
    """
    if (checkpoint is None) == (encoder is None) or (weights is not None and encoder is None):
        raise InputError(
            "Set either --model.checkpoint PATH or --model.encoder, not both; --model.weights PATH goes with "
            "--model.encoder."
        )
    if checkpoint is None and network != "online":
        raise InputError(
            f"--model.network {network} selects from a checkpoint: set --model.checkpoint PATH, or remove it."
        )
    found: dict[str, Encoder] = {}
    if checkpoint is not None:
        name = "pretrained" if network == "online" else network
        found[name] = load_encoder(checkpoint, trained=True, allow=allow, network=network)
        if baselines:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # the CPU's only: the fork restores no other
                found["untrained"] = load_encoder(checkpoint, trained=False, allow=allow)
    elif encoder is not None and weights is not None:
        fresh = copy.deepcopy(encoder)
        left = load_weights(encoder, weights)
        if left:
            rank_zero_info(f"{weights}: {len(left)} tensors are not the encoder's and are left out ({left[0]}, …).")
        found |= {"given": encoder, "without weights": fresh} if baselines else {"given": encoder}
    elif encoder is not None:
        found["given"] = encoder
    if baselines:
        found["raw pixels"] = RawPixels(len(next(iter(found.values())).mean))
    for each in found.values():
        each.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    if layer is None:
        return found
    return {name: each if isinstance(each, RawPixels) else Layer(each, layer).eval() for name, each in found.items()}


def require_frozen(encoder: Encoder) -> None:
    """Assert that an encoder is in eval mode and asks for no gradient."""
    if any(module.training for module in encoder.modules()):
        raise InputError("The encoder left eval mode while it was evaluated: its forward must not call train().")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


class FrozenGuard:
    """Keeps a digest of an encoder's state, to check afterwards that the evaluation did not change it."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.before = (digest(encoder), attributes(encoder))

    def settle(self) -> None:
        """Take the plain attributes again, after a first forward pass on a blank image.

        Some networks (LeViT's attention biases) fill a cache in that pass. It contains nothing from the data.
        """
        self.require(digest(self.encoder) == self.before[0])
        self.before = (self.before[0], attributes(self.encoder))

    def check(self) -> None:
        """Raise :class:`InputError` if a parameter, buffer or plain attribute has changed."""
        require_frozen(self.encoder)
        self.require((digest(self.encoder), attributes(self.encoder)) == self.before)

    def require(self, unchanged: bool) -> None:
        """Refuse an encoder that changed."""
        if not unchanged:
            raise InputError(
                f"The frozen encoder {type(self.encoder).__name__} changed while it was evaluated, so nothing is "
                "reported: its forward must write to no parameter, buffer or attribute in eval mode."
            )


def digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers, those that are not saved included, by name, type, shape and value."""
    sha = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def attributes(module: nn.Module) -> list[tuple[str, str, str]]:
    """Plain attributes of a module and all within it, such as a counter that its forward keeps."""
    common = nn.Module().__dict__.keys()  # hooks and modes: what every module has
    return [
        (place, name, described)
        for place, part in module.named_modules()
        for name, value in part.__dict__.items()
        if name not in common and (described := describe(value)) is not None
    ]


def source_code(module: nn.Module) -> str:
    """A hash of the source files of the classes of all modules in an encoder; empty if one has no file."""
    try:
        files = dict.fromkeys(inspect.getfile(type(part)) for part in module.modules())
        content = [Path(file).read_bytes() for file in files]
    except (OSError, TypeError):  # a class typed into an interpreter
        return ""
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


def describe(value: Any) -> str | None:
    """A plain value, tensor, array or collection of them as text; ``None`` for anything else, which is not compared."""
    if isinstance(value, Tensor):
        holder = nn.Module()
        holder.register_buffer("value", value)
        return digest(holder)
    if isinstance(value, np.ndarray):
        return repr((value.dtype, value.shape, value.tobytes()))
    if isinstance(value, Mapping):
        return repr([(str(key), describe(part)) for key, part in value.items()])
    if isinstance(value, Collection) and not isinstance(value, PLAIN):
        return repr([describe(part) for part in value])
    return repr(value) if isinstance(value, PLAIN) else None
