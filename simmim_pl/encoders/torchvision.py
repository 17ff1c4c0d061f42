"""Any image classifier of torchvision, without its classifier."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from typing import Any

import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models import VisionTransformer, WeightsEnum, get_model, get_model_weights, list_models

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.encoders.unfit import explain
from simmim_pl.runtime.ranges import PositiveFloat, Probability, ranged

# Channel statistics of ImageNet's training set, in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A network's hooks are shared by the threads that run it.
ONE_AT_A_TIME = threading.Lock()


class Torchvision(Encoder):
    """A model of torchvision's by name; its last linear layer is left out.

    ``pooled`` is what that layer would receive. ``feature_map`` is the last feature map before pooling, or a
    VisionTransformer's patch tokens in their places. Where a head transforms the pooled vector (AlexNet, VGG,
    MobileNetV3), or for a ViT's class token, ``pooled`` is not the mean of ``feature_map``, which in the first three
    also has another number of channels than ``embed_dim``.

    Args:
        name: as in ``torchvision.models``: ``resnet18``, ``convnext_tiny``, ``vit_b_16``, …
        weights: ``DEFAULT`` or a name such as ``IMAGENET1K_V1`` to download; without it, freshly initialised.
        mean: per-channel mean of the images, in [0, 1]; by default the weights' own, without weights ImageNet's.
        std: per-channel standard deviation of the images; by default as ``mean``.

    Raises:
        InputError: the name or the weights are unknown, cannot be downloaded, or the model does not end in one linear
            layer; at the first batch, when the model takes images of one size only and these are of another.
    """

    @ranged
    def __init__(
        self,
        name: str,
        weights: str | None = None,
        mean: tuple[Probability, Probability, Probability] | None = None,
        std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None,
    ) -> None:
        found = None if weights is None else find_weights(require_known(name), weights)
        net = build(name, found)
        path, last = last_linear(net, name)
        made_for: Any = found.transforms() if found else None  # the preprocessing that the weights were trained with
        mean = mean or tuple(getattr(made_for, "mean", IMAGENET_MEAN))
        std = std or tuple(getattr(made_for, "std", IMAGENET_STD))
        super().__init__(last.in_features, mean, std)
        self.name = name
        self.net = net
        self.net.set_submodule(path, nn.Identity())

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        seen: list[Tensor] = []
        with ONE_AT_A_TIME:
            handle = listen(self.net, seen.append)
            try:
                pooled = self.net(self.normalize(image))
            except (AssertionError, RuntimeError) as error:  # a ViT of one size only, a pool that has nothing left
                explain(self.name, image, error)
                raise
            finally:
                handle.remove()
        feature_map = seen[-1]
        return Features(pooled=pooled, feature_map=places(feature_map) if feature_map.ndim == 3 else feature_map)


def require_known(name: str) -> str:
    """The name, if torchvision has an image classifier of that name."""
    names = list_models(module=torchvision.models)
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names)) or "resnet18, convnext_tiny, vit_b_16, …"
        raise InputError(f"torchvision has no image classifier {name}: choose a name such as {close}.")
    return name


def find_weights(name: str, weights: str) -> WeightsEnum:
    """The entry of torchvision's table that these weights of this model have."""
    table = get_model_weights(name).__members__
    if weights not in table:
        raise InputError(f"{name} has no weights {weights} in torchvision: choose one of {', '.join(table)}.")
    return table[weights]


def build(name: str, weights: WeightsEnum | None) -> nn.Module:
    """The whole model, with downloaded weights or freshly initialised."""
    try:
        net: nn.Module = get_model(require_known(name), weights=weights)
    except (OSError, RuntimeError) as error:  # no connection, no such file, or a file whose hash is wrong
        if weights is None:
            raise
        raise InputError(
            f"The weights {weights.name} of {name} cannot be downloaded ({error}): check the connection, or leave "
            "weights out to start from random ones."
        ) from error
    return net


def last_linear(net: nn.Module, name: str) -> tuple[str, nn.Linear]:
    """The classifier, and its path in the network."""
    linear = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or hasattr(net, "aux_logits"):  # SqueezeNet has no linear layer, GoogLeNet and Inception have three
        raise InputError(f"{name} does not end in one linear layer: choose another model, such as resnet18.")
    return linear[-1]


def listen(net: nn.Module, record: Callable[[Tensor], None]) -> RemovableHandle:
    """Have the last feature map recorded when the network runs, until the handle is removed."""
    pools = [module for module in net.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if pools:  # the others are inside squeeze-and-excitation blocks
        return pools[-1].register_forward_pre_hook(lambda module, given: record(given[0]))
    # Without such a module, a function pools between the last two children.
    trunk: nn.Module = net.encoder if isinstance(net, VisionTransformer) else list(net.children())[-2]
    return trunk.register_forward_hook(lambda module, given, feature_map: record(feature_map))


def places(tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B D h w"]:
    """A VisionTransformer's patch tokens in their places, without the class token before them."""
    side = round((int(tokens.shape[1]) - 1) ** 0.5)  # torch.jit.trace makes a size a tensor
    feature_map: Tensor = tokens[:, 1:].mT.unflatten(2, (side, side))
    return feature_map
