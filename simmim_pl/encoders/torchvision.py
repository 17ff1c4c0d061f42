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
from simmim_pl.encoders.channels import replace_first_convolution, statistics
from simmim_pl.encoders.feature_map import feature_map_of
from simmim_pl.encoders.image_size import raise_for_image_size
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged

# Channel statistics of ImageNet's training set, in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE = 224  # pixels that every model accepts, except a ViT that names another
# A network's forward hooks are shared by all threads, so that only one may run it at a time.
FORWARD_LOCK = threading.Lock()


class Torchvision(Encoder):
    """A torchvision model by name, without its last linear layer.

    ``pooled`` is the input of that layer. ``feature_map`` is the last feature map before pooling, or a
    VisionTransformer's patch tokens arranged as a grid. If a head transforms the pooled vector (AlexNet, VGG,
    MobileNetV3), or for a ViT's class token, ``pooled`` is not the mean of ``feature_map``. In AlexNet, VGG and
    MobileNetV3 the map also has another number of channels than ``embed_dim``.

    Args:
        name: as in ``torchvision.models``: ``resnet18``, ``convnext_tiny``, ``vit_b_16``, …
        weights: weights to download, ``DEFAULT`` or a name such as ``IMAGENET1K_V1``; otherwise initialised at random.
        mean: per-channel mean of the images, in [0, 1]; by default that of the weights, without weights ImageNet's;
            0.5 if the images are not RGB.
        std: per-channel standard deviation of the images; by default like ``mean``, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more. Downloaded weights are of RGB.

    Raises:
        InputError: the name or the weights are unknown, the weights cannot be downloaded, or the model does not end in
            one linear layer; or, at the first batch, the model does not accept images of this size.
    """

    @ranged
    def __init__(
        self,
        name: str,
        weights: str | None = None,
        mean: tuple[Probability, ...] | None = None,
        std: tuple[PositiveFloat, ...] | None = None,
        channels: PositiveInt = 3,
    ) -> None:
        if weights is not None and channels != 3:
            raise InputError(f"The weights {weights} are of RGB: set channels to 3, or leave weights out.")
        found = None if weights is None else find_weights(require_known(name), weights)
        net = create_model(name, found)
        path, last = last_linear(net, name)
        transforms: Any = found.transforms() if found else None  # the preprocessing that the weights were trained with
        of_rgb = tuple(getattr(transforms, "mean", IMAGENET_MEAN)), tuple(getattr(transforms, "std", IMAGENET_STD))
        super().__init__(last.in_features, *statistics(channels, mean, std, of_rgb), stride=1)
        if channels != 3:
            replace_first_convolution(net, channels)
        self.name = name
        self.net = net
        self.net.set_submodule(path, nn.Identity())
        self.feature_map_channels, self.stride = feature_map_of(self, getattr(net, "image_size", SIZE))

    def no_weight_decay(self) -> set[str]:
        """A transformer's tokens and positions, as torchvision's own recipes name them."""
        ends = ("class_token", "pos_embedding", "relative_position_bias_table")
        return {name for name, _ in self.named_parameters() if name.endswith(ends)}

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        seen: list[Tensor] = []
        with FORWARD_LOCK:
            handle = record_feature_map(self.net, seen.append)
            try:
                pooled = self.net(self.normalize(image))
            except (AssertionError, RuntimeError) as error:  # a ViT's fixed image size, an image too small to pool
                raise_for_image_size(self.name, image, error)
                raise
            finally:
                handle.remove()
        feature_map = seen[-1]
        return Features(
            pooled=pooled, feature_map=tokens_to_feature_map(feature_map) if feature_map.ndim == 3 else feature_map
        )


def require_known(name: str) -> str:
    """Return the name if torchvision has an image classifier of that name; else raise :class:`InputError`."""
    names = list_models(module=torchvision.models)
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names)) or "resnet18, convnext_tiny, vit_b_16, …"
        raise InputError(f"torchvision has no image classifier {name}: choose a name such as {close}.")
    return name


def find_weights(name: str, weights: str) -> WeightsEnum:
    """torchvision's entry for these weights of a model. Raises :class:`InputError` if there is none."""
    table = get_model_weights(name).__members__
    if weights not in table:
        raise InputError(f"{name} has no weights {weights} in torchvision: choose one of {', '.join(table)}.")
    return table[weights]


def create_model(name: str, weights: WeightsEnum | None) -> nn.Module:
    """Create the whole model, with downloaded or random weights. Raises :class:`InputError`."""
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
    """The classifier, and its path in the network. Raises :class:`InputError` if there is no single linear layer."""
    linear = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or hasattr(net, "aux_logits"):  # SqueezeNet has no linear layer, GoogLeNet and Inception have three
        raise InputError(f"{name} does not end in one linear layer: choose another model, such as resnet18.")
    return linear[-1]


def record_feature_map(net: nn.Module, record: Callable[[Tensor], None]) -> RemovableHandle:
    """Register a hook that passes the last feature map of each forward pass to ``record``.

    Args:
        net: the network.
        record: receives the feature map ``[B, G, h, w]``, or a ViT's tokens ``[B, n, D]``.

    Returns:
        The handle that removes the hook.
    """
    pools = [module for module in net.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if pools:  # the others are inside squeeze-and-excitation blocks
        return pools[-1].register_forward_pre_hook(lambda module, given: record(given[0]))
    # Without such a module, a function pools between the last two children.
    trunk: nn.Module = net.encoder if isinstance(net, VisionTransformer) else list(net.children())[-2]
    return trunk.register_forward_hook(lambda module, given, feature_map: record(feature_map))


def tokens_to_feature_map(tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B D h w"]:
    """Arrange a VisionTransformer's patch tokens as a feature map, without the class token before them."""
    side = round((int(tokens.shape[1]) - 1) ** 0.5)  # under torch.jit.trace a size is a tensor
    feature_map: Tensor = tokens[:, 1:].mT.unflatten(2, (side, side))
    return feature_map
