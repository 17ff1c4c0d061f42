"""What the feature map of a network of another library is like, from forwards that compute nothing."""

from __future__ import annotations

from itertools import chain

import torch
from torch.func import functional_call

from simmim_pl.contracts import Encoder, Features, InputError

MORE = 256  # pixels: a multiple of every stride


def feature_map_of(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels and stride of an encoder's feature map, of images that it can take, without arithmetic or memory.

    A convolution without padding loses positions at the borders, so the stride is what a larger image adds. A network
    of one size only, such as a ViT, cuts the image into as many parts as its map has positions.

    - ``size``: side of the images in pixels.
    """
    channels, side = shape(encoder, size)
    try:
        return channels, MORE // (shape(encoder, size + MORE)[1] - side)
    except (InputError, AssertionError, RuntimeError):
        return channels, size // side


def shape(encoder: Encoder, size: int) -> tuple[int, int]:
    """Channels and side of the feature map, by tensors that have a shape only."""
    own = chain(encoder.named_parameters(), encoder.named_buffers())
    nothing = {name: tensor.to("meta") for name, tensor in own}
    image = torch.empty(2, 3, size, size, device="meta")  # two: BatchNorm refuses one value a channel
    with torch.no_grad():
        features: Features = functional_call(encoder, nothing, (image,))
    return int(features.feature_map.shape[1]), int(features.feature_map.shape[2])
