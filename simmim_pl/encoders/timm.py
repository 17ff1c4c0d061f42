"""Any image model of timm, without its classifier."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import Encoder, Features, InputError
from simmim_pl.encoders.channels import statistics
from simmim_pl.encoders.feature_map import feature_map_of
from simmim_pl.encoders.image_size import raise_for_image_size
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged


class Timm(Encoder):
    """A timm model by name, without its classifier. timm is an extra: ``pip install 'simmim_pl[timm]'``.

    ``pooled`` is the input of the classifier. ``feature_map`` is the last feature map before pooling, or a
    transformer's normalised patch tokens arranged as a grid. If a head transforms the pooled vector (MobileNetV3, VGG)
    or pooling takes the class token, ``pooled`` is not the mean of ``feature_map``, which may then have another number
    of channels than ``embed_dim``.

    Args:
        name: as in ``timm.list_models()``, with or without a tag: ``resnet18``, ``vit_tiny_patch16_224.augreg_in21k``…
        pretrained: download timm's weights; otherwise weights are initialised at random.
        mean: per-channel mean of the images, in [0, 1]; by default that of timm's weights; 0.5 if not RGB.
        std: per-channel standard deviation of the images; by default that of timm's weights, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more; timm adapts pretrained weights to it.

    Raises:
        InputError: timm is not installed, has no such model, cannot download its weights, or the model has no single
            feature map; or, at the first batch, the model does not accept images of this size.
    """

    @ranged
    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        mean: tuple[Probability, ...] | None = None,
        std: tuple[PositiveFloat, ...] | None = None,
        channels: PositiveInt = 3,
    ) -> None:
        net = create_model(name, pretrained, channels)
        made_for = net.pretrained_cfg
        embed_dim = getattr(net, "head_hidden_size", net.num_features)
        of_rgb = made_for["mean"], made_for["std"]
        super().__init__(embed_dim, *statistics(channels, mean, std, of_rgb), stride=1)
        self.name = name
        self.net = net
        self.feature_map_channels, self.stride = feature_map_of(self, made_for.get("input_size", (3, 224, 224))[-1])

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        try:
            last, maps = self.net.forward_intermediates(self.normalize(image), indices=1, norm=True, output_fmt="NCHW")
        except (AssertionError, RuntimeError) as error:  # fixed image size, image too small, map cannot be normalised
            raise_for_image_size(self.name, image, error)
            raise
        if not isinstance(last, Tensor):  # CrossViT and EfficientViM return several
            raise InputError(f"{self.name} has no single feature map: choose another model, such as resnet18.")
        pooled = self.net.forward_head(last, pre_logits=True)
        if last.ndim == 3:  # tokens: `maps` has the patch tokens as a grid, without class and register tokens
            return Features(pooled=pooled, feature_map=maps[-1])
        # In some CNNs a convolution follows the last intermediate map, so `last` is closer to what is pooled.
        channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        return Features(pooled=pooled, feature_map=last.permute(0, 3, 1, 2) if channels_last else last)


def create_model(name: str, pretrained: bool, channels: int) -> Any:
    """Create a timm model without its classifier. Raises :class:`InputError` for anything but a name of timm's list."""
    try:
        timm = import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError("The encoder Timm needs timm: pip install 'simmim_pl[timm]'.") from error
    if not timm.is_model(name):
        names = difflib.get_close_matches(name, timm.list_models())
        close = ", ".join(names) or "resnet18, convnext_atto, vit_tiny_patch16_224, …"
        raise InputError(f"timm has no model {name}: choose a name such as {close}.")
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"timm cannot make {name} ({reason}): check the tag in the name, and for pretrained weights the connection."
        ) from error
    if not hasattr(net, "forward_intermediates"):
        raise InputError(f"timm cannot give the feature map of {name}: choose another model, such as resnet18.")
    return net
