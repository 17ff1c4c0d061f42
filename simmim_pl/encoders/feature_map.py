"""Channels and stride of the feature map of another library's network, from forward passes on the meta device."""

from __future__ import annotations

from itertools import chain

import torch
from torch.func import functional_call

from simmim_pl.contracts import Encoder, Features, InputError

MORE = 256  # pixels: a multiple of every stride


def feature_map_of(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels and stride of an encoder's feature map, without arithmetic or memory.

    A convolution without padding loses positions at the borders. So the stride is computed from the positions that a
    larger image adds; for a network with a fixed image size, such as a ViT, it is image side / map side.

    - ``size``: side in pixels of an image that the encoder accepts.
    """
    channels, side = shape(encoder, size)
    try:
        return channels, MORE // (shape(encoder, size + MORE)[1] - side)
    except (InputError, AssertionError, RuntimeError):
        return channels, size // side


def shape(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels and side of the feature map, by a forward pass on the meta device."""
    own = chain(encoder.named_parameters(), encoder.named_buffers())
    nothing = {name: tensor.to("meta") for name, tensor in own}
    image = torch.empty(2, len(encoder.mean), size, size, device="meta")  # two: BatchNorm refuses one value a channel
    with torch.no_grad():
        features: Features = functional_call(encoder, nothing, (image,))
    return int(features.feature_map.shape[1]), int(features.feature_map.shape[2])
