"""One layer of an encoder, read as if it were the last; and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from simmim_pl.contracts import Encoder, Features, InputError

LARGEST = 64  # side of the largest image that shape() tries, in strides


class UnreadableError(InputError):
    """A layer's output is not features of images."""


class Layer(Encoder):
    """The output of one of an encoder's :meth:`~simmim_pl.contracts.Encoder.layers`, pooled over positions.

    - Maps ``[B, C, h, w]``, or ``[B, h, w, C]`` if only that has the image's aspect ratio: the mean over positions.
    - Tokens ``[B, T, D]``: the mean of the patch tokens, which are the last ones, as many as the encoder's map has
      positions. If the number does not fit, the mean of all tokens; the map is then 1×1.
    - Vectors ``[B, D]``: unchanged; the map is 1×1.

    If the output is a tuple or list, its first tensor is used; if the layer runs several times, its last output.

    Args:
        encoder: the encoder, which is run completely.
        layer: name of the layer, one of ``encoder.layers()``.

    Raises:
        InputError: the encoder has no such layer, or its output is none of these.
    """

    def __init__(self, encoder: Encoder, layer: str) -> None:
        if layer not in (known := encoder.layers()):
            raise InputError(f"{type(encoder).__name__} has no layer {layer}: choose one of {', '.join(known)}.")
        embed_dim, stride = shape(encoder, layer)
        super().__init__(embed_dim, *statistics(encoder), stride=stride)
        self.encoder, self.layer = encoder, layer

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        def kept(features: Features) -> Features:
            return Features(features.pooled, features.feature_map.clone())  # what comes after may write to it

        features: Features
        (features,) = read(self.encoder, [self.layer], image, kept)
        return features


class Layers(Encoder):
    """The pooled vectors of all layers of an encoder, concatenated, from one forward pass.

    ``embed_dim`` is 0, since only a forward pass shows it.

    Args:
        encoder: the encoder; its layers are pooled as by :class:`Layer`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(0, *statistics(encoder), stride=encoder.stride)
        self.encoder, self.names = encoder, encoder.layers()

    def each(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _"]]:
        """The vectors of each layer."""
        return read(self.encoder, self.names, image, lambda features: features.pooled)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        pooled = torch.cat(self.each(image), 1)
        return Features(pooled=pooled, feature_map=pooled[:, :, None, None])


def statistics(encoder: Encoder) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which an encoder normalises."""
    return encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()


def read(
    encoder: Encoder,
    layers: Sequence[str],
    image: Float[Tensor, "B C H W"],
    keep: Callable[[Features], Any],
    run: Callable[[Tensor], Any] | None = None,
) -> list[Any]:
    """Apply ``keep`` to each layer's features during one forward pass of the encoder, or of ``run``.

    Raises:
        UnreadableError: a layer is not used, or its output is not features.
    """
    found: dict[str, Any] = {}

    def hook(name: str, module: nn.Module, given: Any, output: Any) -> None:
        found[name] = keep(features_of(output, image, encoder.stride, f"{type(encoder).__name__}'s {name}"))

    handles = [encoder.get_submodule(name).register_forward_hook(partial(hook, name)) for name in layers]
    try:
        (run or encoder)(image)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in found:
            raise UnreadableError(
                f"Layer {name} of {type(encoder).__name__} cannot be read: images do not pass through it."
            )
    return [found[name] for name in layers]


def features_of(output: Any, image: Float[Tensor, "B C H W"], stride: int, name: str) -> Features:
    """A layer's output as features; ``stride`` is that of the encoder's own map. Raises :class:`UnreadableError`."""
    if isinstance(output, (tuple, list)):
        output = next((part for part in output if isinstance(part, Tensor)), None)
    if not isinstance(output, Tensor) or not 2 <= output.ndim <= 4 or len(output) != len(image):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UnreadableError(
            f"{name} gives {shape} for {len(image)} images, which is not a batch of features: choose another layer."
        )
    height, width = image.shape[2:]

    def is_grid(rows: int, columns: int) -> bool:
        return abs(rows * width - columns * height) < max(height, width)  # less than a row or column is missing

    if output.ndim == 4:
        last = is_grid(*output.shape[1:3]) and not is_grid(*output.shape[2:])
        feature_map = output.permute(0, 3, 1, 2) if last else output
        return Features(feature_map.mean((2, 3)), feature_map)
    rows, columns = height // stride, width // stride
    if output.ndim == 3 and rows * columns <= output.shape[1] < 2 * rows * columns:  # class token and registers first
        feature_map = output[:, -rows * columns :].mT.unflatten(2, (rows, columns))
        return Features(feature_map.mean((2, 3)), feature_map)
    pooled = output.mean(1) if output.ndim == 3 else output.clone()
    return Features(pooled, pooled[:, :, None, None])


def shape(encoder: Encoder, layer: str) -> tuple[int, int]:
    """Channels and stride of a layer's map, by a forward pass on the meta device, which computes nothing.

    It tries multiples of the encoder's stride until the encoder accepts one: a network with a fixed image size, such as
    a ViT, was made for a multiple of its stride. If the encoder reads values, which meta tensors do not have, the
    channels are 0 (unknown).
    """
    own = chain(encoder.named_parameters(), encoder.named_buffers())
    run = partial(functional_call, encoder, {name: tensor.to("meta") for name, tensor in own})
    for size in range(LARGEST * encoder.stride, 0, -encoder.stride):
        try:
            with torch.no_grad():
                ((channels, side),) = read(encoder, [layer], torch.empty(2, 3, size, size, device="meta"), map_of, run)
            return channels, round(size / side)
        except UnreadableError:
            raise
        except (InputError, AssertionError, RuntimeError) as error:
            if "meta" in str(error):
                break
    return 0, encoder.stride


def map_of(features: Features) -> tuple[int, int]:
    """Channels of a map, and its length along x."""
    return int(features.feature_map.shape[1]), int(features.feature_map.shape[3])
